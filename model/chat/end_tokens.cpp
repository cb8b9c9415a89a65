#include "model/chat/end_tokens.hpp"

#include <algorithm>
#include <optional>
#include <string>

#include "model/error.hpp"

namespace convoy::model {

namespace {

/// The first control token behind what the assistant said, in a conversation that ends there.
std::optional<int32_t> end_of_turn(const Tokenizer& tokenizer, const ChatTemplate& chat) {
  const std::string answer = "convoy";
  std::string text;
  try {
    const Message messages[] = {{.role = "user", .content = "?"}, {.role = "assistant", .content = answer}};
    text = plain_text(chat.render(messages, {}));
  } catch (const InputError&) {  // not for such a conversation: it writes no end of a turn
    return std::nullopt;
  }
  const size_t said = text.rfind(answer);
  if (said == text.npos) return std::nullopt;
  for (const int32_t id : tokenizer.encode(std::string_view(text).substr(said + answer.size()), true))
    if (tokenizer.is_control(id)) return id;
  return std::nullopt;
}

}  // namespace

std::vector<int32_t> end_tokens(const Config& config, const Tokenizer* tokenizer,
                                const std::optional<ChatTemplate>& chat) {
  std::vector<int32_t> ends = config.end_tokens;
  const auto add = [&](std::optional<int32_t> id) {  // a tokenizer may have more tokens than the model rows
    if (id && *id < config.vocab && std::ranges::find(ends, *id) == ends.end()) ends.push_back(*id);
  };
  if (tokenizer) add(tokenizer->eos());
  if (tokenizer && chat) add(end_of_turn(*tokenizer, *chat));
  return ends;
}

}  // namespace convoy::model
