#include "model/chat/chat_template.hpp"

#include <algorithm>

#include "model/chat/chat_texts.hpp"
#include "model/chat/chat_variables.hpp"
#include "model/chat/jinja/interpreter.hpp"
#include "model/chat/jinja/parser.hpp"
#include "model/digest.hpp"
#include "model/error.hpp"
#include "model/json.hpp"
#include "model/nearest.hpp"
#include "model/text_file.hpp"

namespace convoy::model {
namespace {

ChatTemplate from_file(const std::string& path, const SpecialTokens& tokens) {
  // One byte more than allowed: the parser says that it is too long.
  const std::string text =
      read_text_file(path, jinja::template_bytes_max + 1, "give the path of a Jinja template");
  try {
    return ChatTemplate::from_text(text, tokens);
  } catch (const InputError& error) {
    throw InputError(error.problem(), path + ": " + error.where(), error.mend());
  }
}

std::vector<Segment> segments_of(const jinja::Text& text) {
  std::vector<Segment> segments;
  text.for_each_run([&](std::string_view bytes, bool trusted) {
    segments.push_back({std::string(bytes), trusted});
  });
  return segments;
}

}  // namespace

SpecialTokens special_tokens(const Tokenizer& tokenizer) {
  const auto text = [&](std::optional<int32_t> id) {
    return id ? std::optional<std::string>(tokenizer.bytes(*id)) : std::nullopt;
  };
  return {text(tokenizer.bos()), text(tokenizer.eos())};
}

ChatTemplate ChatTemplate::from_text(std::string_view jinja, const SpecialTokens& tokens) {
  const std::string_view text = jinja.substr(0, jinja.size() - (jinja.ends_with('\n') ? 1 : 0));
  ChatTemplate made;
  made.text_ = jinja;
  Sha256 hash;
  hash.update(text);
  made.sha256_ = hash.hex();
  const auto all = chat_texts();
  const auto known = std::ranges::find(all, text, &ChatText::jinja);
  made.name_ = known == all.end() ? "jinja-" + made.sha256_ : std::string(known->name);
  made.body_ = std::make_shared<const jinja::Body>(jinja::parse_template(jinja));
  made.tokens_ = tokens;
  made.reads_clock_ = text.find("strftime_now") != text.npos;
  return made;
}

std::optional<ChatTemplate> ChatTemplate::of(const Tokenizer& tokenizer) {
  if (!tokenizer.chat_template()) return std::nullopt;
  return from_text(*tokenizer.chat_template(), special_tokens(tokenizer));
}

ChatTemplate ChatTemplate::named(std::string_view name_or_path, const SpecialTokens& tokens) {
  if (is_path(name_or_path)) return from_file(std::string(name_or_path), tokens);
  if (const ChatText* known = find_chat_text(name_or_path)) return from_text(known->jinja, tokens);
  throw InputError("no template named " + in_quotes(name_or_path) + " comes with Convoy" +
                       suggestion(name_or_path, names()),
                   "chat_template",
                   "give a name, or the path of a Jinja file, which ends in .jinja or has a slash");
}

bool ChatTemplate::is_path(std::string_view name_or_path) {
  return name_or_path.ends_with(".jinja") || name_or_path.find('/') != name_or_path.npos;
}

std::vector<std::string_view> ChatTemplate::names() {
  std::vector<std::string_view> names;
  for (const ChatText& text : chat_texts()) names.push_back(text.name);
  return names;
}

std::vector<Segment> ChatTemplate::render(std::span<const Message> messages,
                                          const RenderOptions& options) const {
  return segments(messages, options);
}

std::vector<Segment> ChatTemplate::render(LateMessages& messages, const RenderOptions& options) const {
  return segments(messages, options);
}

template <class Messages>
std::vector<Segment> ChatTemplate::segments(Messages& messages, const RenderOptions& options) const {
  if (messages.size() == 0) throw InputError("there are no messages", "messages", "give at least one");
  if (options.tools) {
    for (const boost::json::value& tool : *options.tools)
      if (!tool.is_object())
        throw InputError("a tool is not an object", "tools", "describe it as a JSON object");
  }
  jinja::State state(options.limits, options.now);
  jinja::Interpreter::Watch watch;
  if (options.watch) watch = [&](const jinja::Text& printed) { options.watch(segments_of(printed)); };
  auto variables = chat_variables(state.meter, message_list(state, messages), options, tokens_);
  return segments_of(jinja::Interpreter(state).run(*body_, std::move(variables), watch));
}

std::string plain_text(std::span<const Segment> segments) {
  std::string text;
  for (const Segment& segment : segments) text += segment.text;
  return text;
}

}  // namespace convoy::model
