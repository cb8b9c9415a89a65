#pragma once
// From a validated request to token ids that fit the model's context. Pure; may take milliseconds a 10 KB of
// text, so sessions run long ones on the gateway's encoder thread.

#include <cstdint>
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

/// User text is plain: control tokens come from the chat template, or from a completion's text if
/// options.control_tokens_in_prompts.
std::variant<Prompt, ApiError> encode_prompt(const CompletionRequest& request, const ServedModel& model,
                                             const GatewayOptions& options);

/// Bytes of text that encode_prompt() will have to tokenise.
size_t text_bytes(const CompletionRequest& request);

}  // namespace convoy::gateway
