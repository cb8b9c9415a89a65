#include "model/chat/chat_variables.hpp"

#include <algorithm>
#include <deque>

#include "model/chat/jinja/given.hpp"

namespace convoy::model {
namespace {

namespace json = boost::json;
using jinja::Dictionary;
using jinja::given;
using jinja::List;
using jinja::Meter;
using jinja::None;
using jinja::Text;
using jinja::Value;
using Entries = std::vector<std::pair<Value, Value>>;

/// Makes the values of one conversation. What every message says again, such as its keys, is one value.
class Conversation final : public jinja::LateElements {
 public:
  Conversation(Meter& meter, LateMessages* late) : meter_(meter), late_(late) {}

  Value element(size_t index) override { return message(late_->read(index)); }

  Value list(std::span<const Message> messages) {
    std::vector<Value> all;
    all.reserve(messages.size());
    for (const Message& each : messages) {
      place_ = all.size();
      all.push_back(message(each));
    }
    return List::make(meter_, std::move(all));
  }

 private:
  /// The template's own.
  const Value& word(std::string_view text) {
    for (const auto& [known, value] : words_)
      if (known == text) return value;
    return words_.emplace_back(text, Text(text, true)).second;
  }

  /// The words that OpenAI's format has for roles say nothing of the client's own: a template may make a
  /// control token with them ('<|' + role + '|>'), as with its own text. Any other role is a value as every
  /// other.
  Value role(std::string_view role) {
    static constexpr std::string_view words[] = {"system",    "developer", "user",
                                                 "assistant", "tool",      "function"};
    const auto known = std::ranges::find(words, role);
    return known != std::end(words) ? word(*known) : given(meter_, role);
  }

  Value text(const Field<std::string>& text) {
    return text.null() ? Value(None{}) : given(meter_, *text.get());
  }

  Value tool_call(const ToolCall& call) {
    Entries entries, function;
    if (call.id) entries.emplace_back(word("id"), given(meter_, *call.id));
    if (call.type) entries.emplace_back(word("type"), given(meter_, *call.type));
    Entries& into = call.bare ? entries : function;
    into.emplace_back(word("name"), given(meter_, call.name));
    into.emplace_back(word("arguments"),
                      given(meter_, call.arguments, "messages[" + std::to_string(place_) + "]"));
    if (!call.bare) entries.emplace_back(word("function"), Dictionary::make(meter_, std::move(function)));
    return Dictionary::make(meter_, std::move(entries));
  }

  Value message(const Message& message) {
    Entries& entries = entries_;
    entries.clear();
    entries.emplace_back(word("role"), role(message.role));
    if (message.content.present()) entries.emplace_back(word("content"), text(message.content));
    if (message.reasoning_content.present())
      entries.emplace_back(word("reasoning_content"), text(message.reasoning_content));
    if (message.name) entries.emplace_back(word("name"), given(meter_, *message.name));
    if (message.tool_calls.null()) entries.emplace_back(word("tool_calls"), None{});
    if (const auto* calls = message.tool_calls.get()) {
      std::vector<Value> made;
      for (const ToolCall& call : *calls) made.push_back(tool_call(call));
      entries.emplace_back(word("tool_calls"), List::make(meter_, std::move(made)));
    }
    if (message.tool_call_id)
      entries.emplace_back(word("tool_call_id"), given(meter_, *message.tool_call_id));
    if (message.prefix) entries.emplace_back(word("prefix"), true);
    return Dictionary::make(meter_, std::move(entries));
  }

  Meter& meter_;
  LateMessages* late_;
  // Of the message under way.
  size_t place_ = 0;
  Entries entries_;
  std::deque<std::pair<std::string_view, Value>> words_;
};

}  // namespace

Value message_list(jinja::State& state, std::span<const Message> messages) {
  return Conversation(state.meter, nullptr).list(messages);
}

Value message_list(jinja::State& state, LateMessages& messages) {
  state.late = std::make_unique<Conversation>(state.meter, &messages);
  return List::late(state.meter, messages.size(), *state.late);
}

std::shared_ptr<jinja::Scope> chat_variables(Meter& meter, Value messages, const RenderOptions& options,
                                             const SpecialTokens& tokens) {
  auto scope = std::make_shared<jinja::Scope>();
  scope->set("messages", std::move(messages));
  scope->set("tools", None{});
  if (options.tools) {
    std::vector<Value> tools;
    for (const json::value& tool : *options.tools) tools.push_back(given(meter, tool, "tools"));
    scope->set("tools", List::make(meter, std::move(tools)));
  }
  scope->set("documents", None{});
  scope->set("add_generation_prompt", options.add_generation_prompt);
  if (options.thinking) {  // publishers call it differently
    scope->set("thinking", *options.thinking);
    scope->set("enable_thinking", *options.thinking);
  }
  if (tokens.bos) scope->set("bos_token", Text(*tokens.bos, true));
  if (tokens.eos) scope->set("eos_token", Text(*tokens.eos, true));
  return scope;
}

}  // namespace convoy::model
