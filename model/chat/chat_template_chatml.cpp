// ChatML with a default system message: SmolLM2 and Qwen2. Any role, in any order; no tools.

#include "model/chat/chat_template_parts.hpp"

namespace convoy::model {
namespace {

std::vector<Segment> chatml(std::span<const Message> messages, const RenderOptions& options,
                            std::string_view default_system) {
  Rendering out;
  if (messages.front().role != "system")
    out.own("<|im_start|>system\n").own(default_system).own("<|im_end|>\n");
  for_each_turn(messages, [&](const Turn& turn) {
    // The client wrote the role: it may not become a control token either.
    out.own("<|im_start|>").given(turn->role).own("\n").given(turn.text()).own("<|im_end|>\n");
  });
  if (options.add_generation_prompt) out.own("<|im_start|>assistant\n");
  return out.take();
}

std::vector<Segment> smollm2(std::span<const Message> messages, const RenderOptions& options) {
  return chatml(messages, options, "You are a helpful AI assistant named SmolLM, trained by Hugging Face");
}

std::vector<Segment> qwen2(std::span<const Message> messages, const RenderOptions& options) {
  return chatml(messages, options, "You are a helpful assistant.");
}

constexpr BuiltinTemplate known[] = {
    {"smollm2", "872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788", smollm2},
    {"qwen2", "793202280c0910ab26bc6eb57c8212c2417324c6d8c4efd0d10d59092ab3e3eb", qwen2},
};

}  // namespace

std::span<const BuiltinTemplate> chatml_templates() { return known; }

}  // namespace convoy::model
