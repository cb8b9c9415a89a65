#include "model/chat/chat_message.hpp"

#include <string_view>

#include "model/error.hpp"
#include "model/json.hpp"

namespace convoy::model {
namespace {

namespace json = boost::json;

const json::object& object(const json::value& value, const std::string& where) {
  if (!value.is_object()) throw InputError("is not an object", where, "give a JSON object");
  return value.get_object();
}

std::string required_text(const json::object& from, std::string_view key, const std::string& where) {
  const json::value* value = from.if_contains(key);
  if (!value || !value->is_string()) {
    throw InputError(in_quotes(key) + (value ? " is not a string" : " is missing"), where,
                     "give it as a string");
  }
  return std::string(value->get_string());
}

Field<std::string> text(const json::object& from, std::string_view key, const std::string& where) {
  const json::value* value = from.if_contains(key);
  if (!value) return {};
  if (value->is_null()) return nullptr;
  return required_text(from, key, where);
}

/// Absent and null are one.
std::optional<std::string> optional_text(const json::object& from, std::string_view key,
                                         const std::string& where) {
  const auto field = text(from, key, where);
  return field.get() ? std::optional(*field.get()) : std::nullopt;
}

ToolCall tool_call(const json::value& value, const std::string& where) {
  const json::object& given = object(value, where);
  const json::value* function = given.if_contains("function");
  const json::object& call = function ? object(*function, where + ".function") : given;
  const json::value* arguments = call.if_contains("arguments");
  if (!arguments)
    throw InputError("\"arguments\" is missing", where, "give them as an object or its JSON text");
  return {.bare = !function,
          .id = optional_text(given, "id", where),
          .type = optional_text(given, "type", where),
          .name = required_text(call, "name", where),
          .arguments = *arguments};
}

Field<std::vector<ToolCall>> tool_calls(const json::object& message, const std::string& where) {
  const json::value* value = message.if_contains("tool_calls");
  if (!value) return {};
  if (value->is_null()) return nullptr;
  if (!value->is_array()) throw InputError("\"tool_calls\" is not an array", where, "give it as an array");
  std::vector<ToolCall> calls;
  for (const json::value& call : value->get_array())
    calls.push_back(tool_call(call, where + ".tool_calls[" + std::to_string(calls.size()) + "]"));
  return calls;
}

bool flag(const json::object& from, std::string_view key, const std::string& where) {
  const json::value* value = from.if_contains(key);
  if (!value || value->is_null()) return false;
  if (!value->is_bool())
    throw InputError(in_quotes(key) + " is neither true nor false", where, "give one of them");
  return value->get_bool();
}

}  // namespace

std::vector<Message> parse_messages(const json::value& value) {
  if (!value.is_array()) throw InputError("is not an array", "messages", "give a JSON array");
  std::vector<Message> messages;
  for (const json::value& item : value.get_array()) {
    const std::string place = "messages[" + std::to_string(messages.size()) + "]";
    const json::object& message = object(item, place);
    messages.push_back({.role = required_text(message, "role", place),
                        .content = text(message, "content", place),
                        .reasoning_content = text(message, "reasoning_content", place),
                        .tool_calls = tool_calls(message, place),
                        .name = optional_text(message, "name", place),
                        .tool_call_id = optional_text(message, "tool_call_id", place),
                        .prefix = flag(message, "prefix", place)});
  }
  return messages;
}

}  // namespace convoy::model
