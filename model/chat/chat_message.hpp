#pragma once
// The messages of a chat, as clients of OpenAI's format send them and chat templates take them.

#include <boost/json/value.hpp>
#include <concepts>
#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace convoy::model {

/// Absent, null or a value: the publishers' templates tell all three apart.
template <class T>
class Field {
 public:
  Field() = default;
  Field(std::nullptr_t) : present_(true) {}
  template <std::convertible_to<T> U>
  Field(U&& value) : present_(true), value_(std::forward<U>(value)) {}

  bool present() const { return present_; }
  bool null() const { return present_ && !value_; }
  /// nullptr if absent or null.
  const T* get() const { return value_ ? &*value_ : nullptr; }

 private:
  bool present_ = false;
  std::optional<T> value_;
};

struct ToolCall {
  bool bare = false;  // name and arguments stand in the call itself instead of under "function"
  std::optional<std::string> id = {};
  std::optional<std::string> type = {};  // "function"
  std::string name = {};
  boost::json::value arguments = {};  // an object, or its JSON text
};

/// Fields that no template reads are left out.
struct Message {
  std::string role = {};  // system, user, assistant, tool; what others mean is the template's affair
  Field<std::string> content = {};
  Field<std::string> reasoning_content = {};
  Field<std::vector<ToolCall>> tool_calls = {};
  std::optional<std::string> name = {};
  std::optional<std::string> tool_call_id = {};  // of a tool's answer
  bool prefix = false;  // DeepSeek's: the text is the start of the answer that is wanted
};

/// A conversation that is read as a template comes to its messages. None of them calls tools.
class LateMessages {
 public:
  virtual size_t size() const = 0;
  /// Until the next is read.
  virtual const Message& read(size_t index) = 0;

 protected:
  ~LateMessages() = default;
};

/// From a JSON array of messages. Throws InputError at the message's place in it.
std::vector<Message> parse_messages(const boost::json::value& value);

}  // namespace convoy::model
