#pragma once
// The chat templates that come with Convoy: the files in model/chat/texts, compiled in. Any thread.

#include <span>
#include <string_view>

namespace convoy::model {

struct ChatText {
  std::string_view name;   // its file's, without ".jinja"
  std::string_view jinja;  // without the newline at its end, which Jinja drops
};

/// In the order of their names.
std::span<const ChatText> chat_texts();
/// nullptr if there is none of that name.
const ChatText* find_chat_text(std::string_view name);

}  // namespace convoy::model
