#pragma once
// Which tokens end an answer. The gateway's model is built with them, and inspect prints them. Any thread.

#include <cstdint>
#include <optional>
#include <vector>

#include "model/chat/chat_template.hpp"
#include "model/config.hpp"
#include "model/tokenizer/tokenizer.hpp"

namespace convoy::model {

/// Those that the configuration names, the tokenizer's own end of a text, and the control token with which
/// the template ends an assistant's turn: checkpoints name one or another of them and mean all. Each once;
/// a tokenizer may be null: there is none.
std::vector<int32_t> end_tokens(const Config& config, const Tokenizer* tokenizer,
                                const std::optional<ChatTemplate>& chat);

}  // namespace convoy::model
