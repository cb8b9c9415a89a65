#include "model/chat/chat_template_parts.hpp"

#include <algorithm>

#include "model/error.hpp"
#include "model/utf8.hpp"

namespace convoy::model {

Rendering& Rendering::add(std::string_view text, bool trusted) {
  if (text.empty()) return *this;
  if (!segments_.empty() && segments_.back().trusted == trusted)
    segments_.back().text += text;
  else
    segments_.push_back({std::string(text), trusted});
  return *this;
}

std::string_view Turn::text() const {
  const Field<std::string>& content = messages_[index_].content;
  if (!content.get())
    throw InputError(content.null() ? "the content is null" : "the content is missing", place(),
                     "the chat template needs a text here");
  return *content.get();
}

std::string_view Turn::printed() const {
  const Field<std::string>& content = messages_[index_].content;
  if (content.null()) return "None";
  return content.get() ? std::string_view(*content.get()) : "";
}

std::span<const ToolCall> Turn::calls() const {
  const Field<std::vector<ToolCall>>& calls = messages_[index_].tool_calls;
  if (calls.null()) throw InputError("the tool calls are null", place(), "leave them out, or give an array");
  return calls.get() ? std::span<const ToolCall>(*calls.get()) : std::span<const ToolCall>();
}

std::string Turn::place(const ToolCall& call) const {
  return place() + ".tool_calls[" + std::to_string(&call - calls().data()) + "]";
}

const std::string& Turn::type(const ToolCall& call) const {
  if (!call.type) throw InputError("the call has no type", place(call), R"(give "type": "function")");
  return *call.type;
}

std::string_view Turn::arguments_text(const ToolCall& call) const {
  if (!call.arguments.is_string())
    throw InputError("the arguments are not a string", place(call),
                     "this chat template takes them as JSON text, as the model wrote them");
  return call.arguments.get_string();
}

void Turn::needs_function(const ToolCall& call) const {
  if (call.bare) throw InputError("the call has no function", place(call), R"(put it under "function")");
}

std::string_view strip(std::string_view text) {
  size_t begin = text.size(), end = text.size();
  for (size_t at = 0; at < text.size();) {
    const Utf8Character c = character_at(text, at);
    const bool space = c.valid && (is_white_space(c.value) || (c.value >= 0x1c && c.value <= 0x1f));
    if (!space) {
      begin = std::min(begin, at);
      end = at + c.bytes;
    }
    at += c.bytes;
  }
  return text.substr(begin, end - begin);
}

std::string_view strip_left(std::string_view text, char c) {
  return text.substr(std::min(text.find_first_not_of(c), text.size()));
}

std::string_view strip_right(std::string_view text, char c) {
  return text.substr(0, text.find_last_not_of(c) + 1);
}

std::string_view before_first(std::string_view text, std::string_view mark) {
  return text.substr(0, text.find(mark));
}

std::string_view after_first(std::string_view text, std::string_view mark) {
  const size_t at = text.find(mark);
  return at == text.npos ? text : text.substr(at + mark.size());
}

std::string_view after_last(std::string_view text, std::string_view mark) {
  const size_t at = text.rfind(mark);
  return at == text.npos ? text : text.substr(at + mark.size());
}

}  // namespace convoy::model
