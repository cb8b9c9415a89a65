#include "gateway/prompt.hpp"

#include <algorithm>
#include <ctime>
#include <span>
#include <utility>

#include "model/error.hpp"

namespace convoy::gateway {

namespace {

[[noreturn]] void refuse_length(const CompletionRequest& request, int64_t context_tokens,
                                const std::string& prompt_tokens) {
  throw bad_request("this model's maximum context length is " + std::to_string(context_tokens) +
                        " tokens, but the prompt has " + prompt_tokens,
                    request.endpoint == Endpoint::chat ? "messages" : "prompt", "context_length_exceeded");
}

/// Of the text, or of what it begins with. Throws ApiError.
void refuse_what_cannot_fit(const CompletionRequest& request, const ServedModel& model,
                            std::span<const model::Segment> text) {
  const size_t tokens_min = model.tokenizer->tokens_min(text);
  if (std::cmp_greater_equal(tokens_min, model.context_tokens))
    refuse_length(request, model.context_tokens, "at least " + std::to_string(tokens_min) + " tokens");
}

/// Throws ApiError, and InputError for what the tokenizer refuses.
std::vector<int32_t> encode(const CompletionRequest& request, const ServedModel& model,
                            std::span<const model::Segment> text, const std::stop_token& stop) {
  refuse_what_cannot_fit(request, model, text);
  return model.tokenizer->encode(text, stop);
}

/// Throws ApiError, and InputError for what template or tokenizer refuse.
std::vector<int32_t> chat_tokens(const CompletionRequest& request, const ServedModel& model,
                                 const GatewayOptions& options, const std::stop_token& stop) {
  if (!model.tokenizer || !model.chat)
    throw bad_request("this model serves no chat completions: it has no chat template", "model");
  const model::RenderOptions how{
      .add_generation_prompt = true,
      .now = std::time(nullptr),
      .limits = {options.template_steps_max, options.template_bytes_max, options.template_depth_max},
      .watch = [&](const auto& beginning) { refuse_what_cannot_fit(request, model, beginning); }};
  ChatMessages messages(request);
  return encode(request, model, model.chat->render(messages, how), stop);
}

std::vector<int32_t> completion_tokens(const CompletionRequest& request, size_t index,
                                       const ServedModel& model, const GatewayOptions& options,
                                       const std::stop_token& stop) {
  if (const auto* ids = std::get_if<std::vector<int32_t>>(&request.prompts[index])) {
    for (int32_t id : *ids)
      if (id >= model.vocab)
        throw bad_request("'prompt' holds token id " + std::to_string(id) + ", but the vocabulary ends at " +
                              std::to_string(model.vocab - 1),
                          "prompt");
    return *ids;
  }
  if (!model.tokenizer)
    throw bad_request("this model has no tokenizer: 'prompt' must be an array of token ids", "prompt");
  const model::Segment segment{std::get<std::string>(request.prompts[index]),
                               options.control_tokens_in_prompts};
  auto tokens = encode(request, model, std::span(&segment, 1), stop);
  if (tokens.empty() && model.tokenizer->bos()) tokens.push_back(*model.tokenizer->bos());
  return tokens;
}

uint32_t room_for_answer(const CompletionRequest& request, size_t prompt_tokens, int64_t context_tokens,
                         uint32_t max_tokens_default) {
  const auto prompt = static_cast<int64_t>(prompt_tokens);
  const std::string tokens = std::to_string(prompt) + " tokens";
  if (prompt >= context_tokens)
    refuse_length(request, context_tokens,
                  tokens + (prompt == context_tokens ? ", which leaves no room for an answer" : ""));
  const int64_t room = context_tokens - prompt;
  if (!request.max_tokens) {
    const int64_t wanted = std::max(max_tokens_default, request.sampling.min_tokens);
    return static_cast<uint32_t>(std::min(room, wanted));
  }
  if (*request.max_tokens > room)
    throw bad_request("this model's maximum context length is " + std::to_string(context_tokens) +
                          " tokens, but the prompt has " + tokens + " and '" + request.max_tokens_field +
                          "' asks for " + std::to_string(*request.max_tokens) + " more",
                      request.max_tokens_field, "context_length_exceeded");
  return *request.max_tokens;
}

}  // namespace

std::variant<Prompt, ApiError> encode_prompt(const CompletionRequest& request, size_t index,
                                             const ServedModel& model, const GatewayOptions& options,
                                             const std::stop_token& stop) {
  const bool chat = request.endpoint == Endpoint::chat;
  try {
    if (!model.tokenizer && !request.stop.empty())
      throw bad_request("this model has no tokenizer: 'stop' strings cannot be found", "stop");
    Prompt prompt;
    prompt.tokens = chat ? chat_tokens(request, model, options, stop)
                         : completion_tokens(request, index, model, options, stop);
    if (prompt.tokens.empty()) throw bad_request("the prompt is empty", chat ? "messages" : "prompt");
    prompt.max_tokens =
        room_for_answer(request, prompt.tokens.size(), model.context_tokens, options.max_tokens_default);
    return prompt;
  } catch (const ApiError& error) {
    return error;
  } catch (const InputError& error) {
    return bad_request(error.what(), chat ? "messages" : "prompt");
  }
}

}  // namespace convoy::gateway
