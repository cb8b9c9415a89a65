#include "model/chat/chat_template.hpp"

#include "model/chat/chat_template_parts.hpp"
#include "model/digest.hpp"
#include "model/error.hpp"
#include "model/json.hpp"

namespace convoy::model {
namespace {

/// The first template of all families that `wanted` accepts; nullptr if it accepts none.
template <class Wanted>
const ChatTemplate* find(Wanted wanted) {
  for (const auto family :
       {chatml_templates(), deepseek_templates(), llama_templates(), qwen_templates(), made_templates()}) {
    for (const ChatTemplate& known : family)
      if (wanted(known)) return &known;
  }
  return nullptr;
}

std::string choices() {
  std::string names;
  for (const std::string_view name : ChatTemplate::names())
    names += (names.empty() ? "" : ", ") + std::string(name);
  return "choose one of: " + names;
}

}  // namespace

const ChatTemplate& ChatTemplate::by_name(std::string_view name) {
  if (const auto* known = find([&](const ChatTemplate& t) { return t.name() == name; })) return *known;
  throw InputError("the chat template " + in_quotes(name) + " is not known", "chat_template", choices());
}

const ChatTemplate& ChatTemplate::recognise(std::string_view jinja) {
  if (jinja.ends_with('\n')) jinja.remove_suffix(1);
  Sha256 hash;
  hash.update(jinja);
  const std::string digest = hash.hex();
  if (const auto* known = find([&](const ChatTemplate& t) { return t.sha256() == digest; })) return *known;
  throw InputError("the checkpoint's own template (SHA-256 " + digest + ") is not a known one",
                   "chat_template",
                   choices() + " with the setting chat_template, if the model was trained for it");
}

std::vector<std::string_view> ChatTemplate::names() {
  std::vector<std::string_view> names;
  find([&](const ChatTemplate& known) {
    names.push_back(known.name());
    return false;
  });
  return names;
}

std::vector<Segment> ChatTemplate::render(std::span<const Message> messages,
                                          const RenderOptions& options) const {
  if (messages.empty()) throw InputError("there are no messages", "messages", "give at least one");
  if (options.tools) {
    for (const boost::json::value& tool : *options.tools)
      if (!tool.is_object())
        throw InputError("a tool is not an object", "tools", "describe it as a JSON object");
  }
  return render_(messages, options);
}

std::string plain_text(std::span<const Segment> segments) {
  std::string text;
  for (const Segment& segment : segments) text += segment.text;
  return text;
}

}  // namespace convoy::model
