// The template of checkpoints that `convoy make-model` makes, which nobody trained: it needs no control token
// but the one that ends a text. Any role, in any order; no tools.

#include "model/chat/chat_template_parts.hpp"

namespace convoy::model {

const std::string_view made_template_jinja =
    "{% for message in messages %}"
    "{{ message['role'] + ': ' + message['content'] + '<｜end▁of▁sentence｜>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}";

namespace {

std::vector<Segment> made(std::span<const Message> messages, const RenderOptions& options) {
  Rendering out;
  for_each_turn(messages, [&](const Turn& turn) {
    out.given(turn->role).own(": ").given(turn.text()).own("<｜end▁of▁sentence｜>");
  });
  if (options.add_generation_prompt) out.own("assistant: ");
  return out.take();
}

constexpr BuiltinTemplate known[] = {
    {"made", "0515296b70337e4b6f6e355fb077ba9ee25387e7292487efb6e32d759e7d2825", made},
};

}  // namespace

std::span<const BuiltinTemplate> made_templates() { return known; }

}  // namespace convoy::model
