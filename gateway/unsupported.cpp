#include "gateway/unsupported.hpp"

namespace convoy::gateway {

namespace json = boost::json;

namespace {

// What OpenAI, vLLM and SGLang have and we don't, and what would make another answer. Not here, and so
// ignored as unknown fields are: what shapes only cost or bookkeeping (metadata, prompt_cache_key, …).
constexpr std::string_view unsupported_everywhere[] = {
    "logit_bias",
    "use_beam_search",
    "stop_token_ids",
    "stop_regex",
    "bad_words",
    "allowed_token_ids",
    "structured_outputs",
    "structural_tag",
    "json_schema",
    "regex",
    "ebnf",
    "grammar",
    "logits_processors",
    "custom_logit_processor",
    "custom_params",
    "vllm_xargs",
    "lora_path",
    "session_params",
    "kv_transfer_params",
    "prompt_logprobs",
    "return_hidden_states",
    "return_tokens_as_token_ids",
    "include_stop_str_in_output",
    "no_stop_trim",
    "truncate_prompt_tokens",
    "thinking_token_budget",
    "repetition_detection",
    "add_special_tokens",
    "echo",
};
constexpr std::string_view unsupported_in_completions[] = {"suffix", "prompt_embeds"};
constexpr std::string_view unsupported_in_chats[] = {
    "tools",
    "functions",
    "audio",
    "documents",
    "web_search_options",
    "chat_template",
    "input_ids",
    "mm_processor_kwargs",
    "chat_template_kwargs",
    "continue_final_message",
};
constexpr std::string_view guided_prefix = "guided_";  // guided_json, guided_regex, …: vLLM's family
constexpr std::string_view true_or_unsupported[] = {"skip_special_tokens", "add_generation_prompt"};

void refuse_unsupported_in_chats(const Fields& f) {
  // No template is told either: whatever is asked for, the answer is the same.
  for (const char* name : {"reasoning_effort", "verbosity"})
    if (const json::value* v = f.find(name); v && !v->is_string()) f.refuse(name, "must be a string");
  for (const char* name : {"tool_choice", "function_call"})
    if (const json::value* v = f.find(name); v && !neutral(*v) && *v != "none" && *v != "auto")
      f.unsupported(name);
  if (const json::value* v = f.find("modalities"); v && !neutral(*v) && *v != json::array{"text"})
    f.unsupported("modalities", "other than [\"text\"] are not supported");
}

}  // namespace

void refuse_unsupported(const Fields& f, const json::object& body, Endpoint endpoint) {
  const auto refuse_all = [&](auto& names) {
    for (const std::string_view name : names)
      if (const json::value* v = f.find(name); v && !neutral(*v)) f.unsupported(name);
  };
  refuse_all(unsupported_everywhere);
  for (const auto& field : body)
    if (std::string_view(field.key()).starts_with(guided_prefix) && !neutral(field.value()))
      f.unsupported(field.key());
  for (const std::string_view name : true_or_unsupported)
    if (const json::value* v = f.find(name); v && *v != true)
      f.unsupported(name, "other than true is not supported");
  if (const json::value* v = f.find("response_format"); v && !neutral(*v)) {
    const json::object* format = v->if_object();
    const json::value* type = format ? format->if_contains("type") : nullptr;
    if (!type || !type->is_string()) f.refuse("response_format", "must be an object with a type");
    if (*type != "text") f.unsupported("response_format", "other than {\"type\": \"text\"} is not supported");
  }
  if (endpoint == Endpoint::completions) {
    refuse_all(unsupported_in_completions);
  } else {
    refuse_all(unsupported_in_chats);
    refuse_unsupported_in_chats(f);
  }
}

}  // namespace convoy::gateway
