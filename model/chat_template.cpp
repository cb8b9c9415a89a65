#include "model/chat_template.hpp"

#include "model/digest.hpp"
#include "model/error.hpp"
#include "model/json.hpp"

namespace convoy::model {
namespace {

/// SmolLM2's ChatML: a default system message unless the first message is one; any role, in any order.
class Smollm2Template final : public ChatTemplate {
 public:
  std::string_view name() const override { return "smollm2"; }

  std::vector<Segment> render(std::span<const Message> messages, bool add_generation_prompt) const override {
    std::vector<Segment> out;
    if (!messages.empty() && messages.front().role != "system") {
      out.push_back(
          {"<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging "
           "Face<|im_end|>\n",
           true});
    }
    for (const Message& message : messages) {
      out.push_back({"<|im_start|>", true});
      out.push_back({message.role, false});  // the client wrote it: it may not become a control token either
      out.push_back({"\n", true});
      out.push_back({message.content, false});
      out.push_back({"<|im_end|>\n", true});
    }
    if (add_generation_prompt) out.push_back({"<|im_start|>assistant\n", true});
    return out;
  }
};

const Smollm2Template smollm2;

struct Known {
  const ChatTemplate* chat_template;
  std::string_view sha256;  // of the checkpoint's own template, the Jinja text
};
constexpr Known known_templates[] = {
    {&smollm2, "872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788"},
};

std::string choices() {
  std::string names;
  for (const std::string_view name : ChatTemplate::names())
    names += (names.empty() ? "" : ", ") + std::string(name);
  return "choose one of: " + names;
}

}  // namespace

const ChatTemplate& ChatTemplate::by_name(std::string_view name) {
  for (const Known& known : known_templates) {
    if (known.chat_template->name() == name) return *known.chat_template;
  }
  throw InputError("the chat template " + in_quotes(name) + " is not known", "chat_template", choices());
}

const ChatTemplate& ChatTemplate::recognise(std::string_view jinja) {
  Sha256 hash;
  hash.update(jinja);
  const std::string digest = hash.hex();
  for (const Known& known : known_templates) {
    if (known.sha256 == digest) return *known.chat_template;
  }
  throw InputError("the checkpoint's own template (SHA-256 " + digest + ") is not a known one",
                   "chat_template",
                   choices() + " with the setting chat_template, if the model was trained for it");
}

std::vector<std::string_view> ChatTemplate::names() {
  std::vector<std::string_view> names;
  for (const Known& known : known_templates) {
    if (names.empty() || names.back() != known.chat_template->name())
      names.push_back(known.chat_template->name());
  }
  return names;
}

std::string plain_text(std::span<const Segment> segments) {
  std::string text;
  for (const Segment& segment : segments) text += segment.text;
  return text;
}

}  // namespace convoy::model
