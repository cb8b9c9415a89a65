#include "model/chat/chat_template.hpp"

#include "model/chat/chat_template_jinja.hpp"
#include "model/chat/chat_template_parts.hpp"
#include "model/digest.hpp"
#include "model/error.hpp"
#include "model/json.hpp"

namespace convoy::model {
namespace {

/// The first template of all families that `wanted` accepts; nullptr if it accepts none.
template <class Wanted>
const BuiltinTemplate* find(Wanted wanted) {
  for (const auto family :
       {chatml_templates(), deepseek_templates(), llama_templates(), qwen_templates(), made_templates()}) {
    for (const BuiltinTemplate& known : family)
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

ChatTemplate made_of(const BuiltinTemplate& known) {
  return {std::string(known.name), std::string(known.sha256), known.render};
}

}  // namespace

ChatTemplate ChatTemplate::by_name(std::string_view name) {
  if (const auto* known = find([&](const BuiltinTemplate& t) { return t.name == name; }))
    return made_of(*known);
  throw InputError("the chat template " + in_quotes(name) + " is not known", "chat_template", choices());
}

ChatTemplate ChatTemplate::from_text(std::string_view jinja, const SpecialTokens& tokens) {
  Sha256 hash;
  hash.update(jinja.substr(0, jinja.size() - (jinja.ends_with('\n') ? 1 : 0)));
  const std::string digest = hash.hex();
  if (const auto* known = find([&](const BuiltinTemplate& t) { return t.sha256 == digest; }))
    return made_of(*known);
  return interpreted_template(jinja, digest, tokens);
}

std::optional<ChatTemplate> ChatTemplate::of(const Tokenizer& tokenizer) {
  if (!tokenizer.chat_template()) return std::nullopt;
  const auto text = [&](std::optional<int32_t> id) {
    return id ? std::optional<std::string>(tokenizer.bytes(*id)) : std::nullopt;
  };
  return from_text(*tokenizer.chat_template(), {text(tokenizer.bos()), text(tokenizer.eos())});
}

std::vector<std::string_view> ChatTemplate::names() {
  std::vector<std::string_view> names;
  find([&](const BuiltinTemplate& known) {
    names.push_back(known.name);
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
