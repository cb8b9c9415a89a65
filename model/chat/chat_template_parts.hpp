#pragma once
// What the families of chat templates share: where they write, and how they read messages as Jinja does.
// Internal to model/chat_template*.cpp.

#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/chat/chat_template.hpp"

namespace convoy::model {

/// A template that is a function. sha256: of the publisher's Jinja text, without the newline at its end,
/// which Jinja drops.
struct BuiltinTemplate {
  std::string_view name, sha256;
  std::vector<Segment> (*render)(std::span<const Message>, const RenderOptions&);
};

std::span<const BuiltinTemplate> chatml_templates();
std::span<const BuiltinTemplate> deepseek_templates();
std::span<const BuiltinTemplate> llama_templates();
std::span<const BuiltinTemplate> made_templates();
std::span<const BuiltinTemplate> qwen_templates();

/// The prompt being written.
class Rendering {
 public:
  /// The template's own text, in which control tokens count.
  Rendering& own(std::string_view text) { return add(text, true); }
  /// What the client gave: never a control token.
  Rendering& given(std::string_view text) { return add(text, false); }
  std::vector<Segment> take() { return std::move(segments_); }

 private:
  Rendering& add(std::string_view text, bool trusted);

  std::vector<Segment> segments_;
};

/// A message and its place in the conversation.
class Turn {
 public:
  Turn(std::span<const Message> messages, size_t index) : messages_(messages), index_(index) {}

  const Message* operator->() const { return &messages_[index_]; }
  bool is(std::string_view role) const { return messages_[index_].role == role; }
  bool first() const { return index_ == 0; }
  bool last() const { return index_ + 1 == messages_.size(); }
  size_t index() const { return index_; }
  /// Whether the message before or after this one is of that role.
  bool follows(std::string_view role) const { return !first() && messages_[index_ - 1].role == role; }
  bool precedes(std::string_view role) const { return !last() && messages_[index_ + 1].role == role; }

  /// The content, where Jinja would fail on anything but a text. Throws InputError.
  std::string_view text() const;
  /// The content as `{{ … }}` prints it: null as None, as the publishers' templates do.
  std::string_view printed() const;
  /// Not null, not absent, not empty.
  bool has_tool_calls() const { return messages_[index_].tool_calls.get() && !calls().empty(); }
  /// What a loop over the tool calls sees: none if they are absent. Throws InputError if they are null.
  std::span<const ToolCall> calls() const;
  /// Of a call: its place, its type and its arguments as text where Jinja would fail without. Throws
  /// InputError.
  std::string place(const ToolCall& call) const;
  const std::string& type(const ToolCall& call) const;
  std::string_view arguments_text(const ToolCall& call) const;
  /// Throws InputError for a call whose name does not stand under "function".
  void needs_function(const ToolCall& call) const;

 private:
  std::string place() const { return "messages[" + std::to_string(index_) + "]"; }

  std::span<const Message> messages_;
  size_t index_;
};

/// Calls `each` with every message's Turn.
template <class Each>
void for_each_turn(std::span<const Message> messages, Each each) {
  for (size_t i = 0; i < messages.size(); i++) each(Turn(messages, i));
}

// Python's methods of str, as templates call them.
std::string_view strip(std::string_view text);  // white space, Unicode's too
std::string_view strip_left(std::string_view text, char c);
std::string_view strip_right(std::string_view text, char c);
/// What stands before the first, after the first, after the last `mark`; the whole text if there is none.
std::string_view before_first(std::string_view text, std::string_view mark);
std::string_view after_first(std::string_view text, std::string_view mark);
std::string_view after_last(std::string_view text, std::string_view mark);

}  // namespace convoy::model
