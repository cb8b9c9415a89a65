#include "model/chat/chat_variables.hpp"

#include <algorithm>

#include "model/chat/python_json.hpp"
#include "model/error.hpp"

namespace convoy::model {
namespace {

namespace json = boost::json;
using jinja::Dictionary;
using jinja::List;
using jinja::Meter;
using jinja::None;
using jinja::Text;
using jinja::Value;
using Entries = std::vector<std::pair<Value, Value>>;

Value given(Meter& meter, std::string_view text) {
  Text made(text, false);
  meter.bytes(made.cost());
  return made;
}

Value own(std::string_view text) { return Text(text, true); }

/// The words that OpenAI's format has for roles say nothing of the client's own: a template may make a
/// control token with them ('<|' + role + '|>'), as with its own text. Any other role is a value as every
/// other.
Value role(Meter& meter, std::string_view role) {
  static constexpr std::string_view words[] = {"system",    "developer", "user",
                                               "assistant", "tool",      "function"};
  const bool known = std::find(std::begin(words), std::end(words), role) != std::end(words);
  return known ? own(role) : given(meter, role);
}

Value from_json(Meter& meter, const json::value& value, const std::string& where) {
  meter.steps(1);
  switch (value.kind()) {
    case json::kind::null:
      return None{};
    case json::kind::bool_:
      return value.get_bool();
    case json::kind::int64:
      return value.get_int64();
    case json::kind::uint64:
      return value.get_uint64() > INT64_MAX ? Value::big(value.get_uint64())
                                            : Value(static_cast<int64_t>(value.get_uint64()));
    case json::kind::double_:
      if (!is_kept_exactly(value.get_double()))
        throw InputError("holds a number that is too large to be kept exactly", where,
                         "give it as a string, or leave it out");
      return value.get_double();
    case json::kind::string:
      return given(meter, value.get_string());
    case json::kind::array: {
      std::vector<Value> elements;
      for (const json::value& element : value.get_array())
        elements.push_back(from_json(meter, element, where));
      return List::make(meter, std::move(elements));
    }
    case json::kind::object: {
      Entries entries;
      for (const auto& [key, held] : value.get_object())
        entries.emplace_back(given(meter, key), from_json(meter, held, where));
      return Dictionary::make(meter, std::move(entries));
    }
  }
  return {};
}

Value tool_call(Meter& meter, const ToolCall& call, const std::string& where) {
  Entries entries, function;
  if (call.id) entries.emplace_back(own("id"), given(meter, *call.id));
  if (call.type) entries.emplace_back(own("type"), given(meter, *call.type));
  Entries& into = call.bare ? entries : function;
  into.emplace_back(own("name"), given(meter, call.name));
  into.emplace_back(own("arguments"), from_json(meter, call.arguments, where));
  if (!call.bare) entries.emplace_back(own("function"), Dictionary::make(meter, std::move(function)));
  return Dictionary::make(meter, std::move(entries));
}

Value message(Meter& meter, const Message& message, const std::string& where) {
  Entries entries;
  const auto add = [&](std::string_view key, Value value) {
    entries.emplace_back(own(key), std::move(value));
  };
  const auto add_text = [&](std::string_view key, const Field<std::string>& text) {
    if (text.present()) add(key, text.null() ? Value(None{}) : given(meter, *text.get()));
  };
  add("role", role(meter, message.role));
  add_text("content", message.content);
  add_text("reasoning_content", message.reasoning_content);
  if (message.name) add("name", given(meter, *message.name));
  if (message.tool_calls.null()) add("tool_calls", None{});
  if (const auto* calls = message.tool_calls.get()) {
    std::vector<Value> made;
    for (const ToolCall& call : *calls) made.push_back(tool_call(meter, call, where));
    add("tool_calls", List::make(meter, std::move(made)));
  }
  if (message.tool_call_id) add("tool_call_id", given(meter, *message.tool_call_id));
  if (message.prefix) add("prefix", true);
  return Dictionary::make(meter, std::move(entries));
}

}  // namespace

std::shared_ptr<jinja::Scope> chat_variables(Meter& meter, std::span<const Message> messages,
                                             const RenderOptions& options, const SpecialTokens& tokens) {
  auto scope = std::make_shared<jinja::Scope>();
  std::vector<Value> all;
  for (const Message& each : messages)
    all.push_back(message(meter, each, "messages[" + std::to_string(all.size()) + "]"));
  scope->set("messages", List::make(meter, std::move(all)));
  scope->set("tools", None{});
  if (options.tools) {
    std::vector<Value> tools;
    for (const json::value& tool : *options.tools) tools.push_back(from_json(meter, tool, "tools"));
    scope->set("tools", List::make(meter, std::move(tools)));
  }
  scope->set("documents", None{});
  scope->set("add_generation_prompt", options.add_generation_prompt);
  if (options.thinking) {  // publishers call it differently
    scope->set("thinking", *options.thinking);
    scope->set("enable_thinking", *options.thinking);
  }
  if (tokens.bos) scope->set("bos_token", own(*tokens.bos));
  if (tokens.eos) scope->set("eos_token", own(*tokens.eos));
  return scope;
}

}  // namespace convoy::model
