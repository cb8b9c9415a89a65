#pragma once
// From a validated request to token ids that fit the model's context. Pure but for the date that a chat
// template may write; may take milliseconds a 10 KB of text, so sessions run long ones on the gateway's
// encoder threads.

#include <cstdint>
#include <stop_token>
#include <variant>
#include <vector>

#include "gateway/api_error.hpp"
#include "gateway/gateway.hpp"
#include "gateway/openai_request.hpp"

namespace convoy::gateway {

struct Prompt {
  std::vector<int32_t> tokens;
  uint32_t max_tokens = 0;  // generated at most; prompt and answer fit the context together
};

/// Of the prompt with that index. User text is plain: control tokens come from the chat template, or from a
/// completion's text if options.control_tokens_in_prompts. A text too long for the context, however it is
/// encoded, is refused before it is. Once `stop` is requested it returns soon, with what nobody wants any
/// more.
std::variant<Prompt, ApiError> encode_prompt(const CompletionRequest& request, size_t index,
                                             const ServedModel& model, const GatewayOptions& options,
                                             const std::stop_token& stop);

}  // namespace convoy::gateway
