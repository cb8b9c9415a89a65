#include "gateway/prompt.hpp"

#include <algorithm>

#include "model/error.hpp"

namespace convoy::gateway {

namespace {

/// Throws ApiError, and InputError for what template or tokenizer refuse.
std::vector<int32_t> chat_tokens(const CompletionRequest& request, const ServedModel& model) {
  if (!model.tokenizer || !model.chat)
    throw bad_request("this model serves no chat completions: it has no chat template", "model");
  return model.tokenizer->encode(model.chat->render(request.messages, {.add_generation_prompt = true}));
}

std::vector<int32_t> completion_tokens(const CompletionRequest& request, const ServedModel& model,
                                       const GatewayOptions& options) {
  if (const auto* ids = std::get_if<std::vector<int32_t>>(&request.prompt)) {
    for (int32_t id : *ids)
      if (id >= model.vocab)
        throw bad_request("'prompt' holds token id " + std::to_string(id) + ", but the vocabulary ends at " +
                              std::to_string(model.vocab - 1),
                          "prompt");
    return *ids;
  }
  if (!model.tokenizer)
    throw bad_request("this model has no tokenizer: 'prompt' must be an array of token ids", "prompt");
  const model::Segment segment{std::get<std::string>(request.prompt), options.control_tokens_in_prompts};
  auto tokens = model.tokenizer->encode(std::span(&segment, 1));
  if (tokens.empty() && model.tokenizer->bos()) tokens.push_back(*model.tokenizer->bos());
  return tokens;
}

uint32_t room_for_answer(const CompletionRequest& request, size_t prompt_tokens, int64_t context_tokens,
                         uint32_t max_tokens_default) {
  const auto prompt = static_cast<int64_t>(prompt_tokens);
  const std::string context = "this model's maximum context length is " + std::to_string(context_tokens) +
                              " tokens, but the prompt has " + std::to_string(prompt) + " tokens";
  const char* param = request.endpoint == Endpoint::chat ? "messages" : "prompt";
  if (prompt >= context_tokens)
    throw bad_request(context + (prompt == context_tokens ? ", which leaves no room for an answer" : ""),
                      param, "context_length_exceeded");
  const int64_t room = context_tokens - prompt;
  if (!request.max_tokens) {
    const int64_t wanted = std::max(max_tokens_default, request.sampling.min_tokens);
    return static_cast<uint32_t>(std::min(room, wanted));
  }
  if (*request.max_tokens > room)
    throw bad_request(context + " and '" + request.max_tokens_field + "' asks for " +
                          std::to_string(*request.max_tokens) + " more",
                      request.max_tokens_field, "context_length_exceeded");
  return *request.max_tokens;
}

}  // namespace

std::variant<Prompt, ApiError> encode_prompt(const CompletionRequest& request, const ServedModel& model,
                                             const GatewayOptions& options) {
  const bool chat = request.endpoint == Endpoint::chat;
  try {
    if (!model.tokenizer && !request.stop.empty())
      throw bad_request("this model has no tokenizer: 'stop' strings cannot be found", "stop");
    Prompt prompt;
    prompt.tokens = chat ? chat_tokens(request, model) : completion_tokens(request, model, options);
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

size_t text_bytes(const CompletionRequest& request) {
  size_t bytes = 0;
  for (const model::Message& m : request.messages)
    if (const std::string* content = m.content.get()) bytes += content->size();
  if (const auto* text = std::get_if<std::string>(&request.prompt)) bytes += text->size();
  return bytes;
}

}  // namespace convoy::gateway
