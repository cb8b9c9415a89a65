#include "gateway/openai_request.hpp"

#include <limits>

#include "gateway/json_fields.hpp"
#include "gateway/unsupported.hpp"
#include "model/json.hpp"

namespace convoy::gateway {

namespace json = boost::json;

namespace {

std::string_view role_of(const Fields& message) {
  const std::string_view role = message.text("role");
  if (role == "developer") return "system";  // OpenAI's newer name for it
  if (role != "system" && role != "user" && role != "assistant")
    message.refuse("role", "must be system, developer, user or assistant");
  return role;
}

std::string content_of(const Fields& message) {
  const json::value& content = message.required("content");
  if (content.is_string()) return std::string(content.get_string());
  if (!content.is_array()) message.refuse("content", "must be a string or an array of text parts");
  std::string text;
  size_t index = 0;
  for (const json::value& part : content.get_array()) {
    const std::string key = "content[" + std::to_string(index++) + "]";
    if (!part.is_object()) message.refuse(key, "must be an object");
    Fields fields(part.get_object(), message.path(key) + ".");
    if (fields.text("type") != "text") fields.unsupported("type", "other than 'text' is not supported");
    text += fields.text("text");
  }
  return text;
}

/// Accepted and left out, or refused: templates get roles and contents alone.
void check_further_fields(const Fields& message) {
  if (const json::value* name = message.find("name"); name && !name->is_string())
    message.refuse("name", "must be a string");
  for (const char* name : {"tool_calls", "tool_call_id", "function_call", "audio", "prefix"})
    if (const json::value* v = message.find(name); v && !neutral(*v)) message.unsupported(name);
}

void check_messages(const Fields& f) {
  const json::value& list = f.required("messages");
  if (!list.is_array()) f.refuse("messages", "must be an array");
  if (list.get_array().empty()) f.refuse("messages", "must not be empty");
  size_t index = 0;
  for (const json::value& item : list.get_array()) {
    if (!item.is_object()) f.refuse("messages[" + std::to_string(index) + "]", "must be an object");
    const Fields message(item.get_object(), "messages", index++);
    role_of(message);
    const json::value* content = item.get_object().if_contains("content");
    if (item.get_object().size() != 2 || !content) check_further_fields(message);
    if (!content || !content->is_string()) content_of(message);
  }
}

std::vector<int32_t> token_ids_of(const Fields& f, const json::array& list) {
  std::vector<int32_t> ids;
  ids.reserve(list.size());
  for (const json::value& v : list) {
    if (!v.is_int64() || v.get_int64() < 0 || v.get_int64() > std::numeric_limits<int32_t>::max())
      f.refuse("prompt", "must hold token ids: integers from 0");
    ids.push_back(static_cast<int32_t>(v.get_int64()));
  }
  return ids;
}

PromptInput prompt_of(const Fields& f, const std::string& key, const json::value& value) {
  if (const json::string* text = value.if_string()) return std::string(*text);
  const json::array* list = value.if_array();
  if (!list) f.refuse(key, "must be a string or an array of token ids");
  if (list->empty()) f.refuse(key, "must not be empty");
  return token_ids_of(f, *list);
}

/// A text, token ids, or an array of these: a choice each.
void read_prompts(const Fields& f, uint32_t prompts_max, CompletionRequest& request) {
  const json::value& prompt = f.required("prompt");
  const json::array* list = prompt.if_array();
  if (!list || list->empty() || (*list)[0].is_number()) {
    request.prompts.push_back(prompt_of(f, "prompt", prompt));
    return;
  }
  if (list->size() > prompts_max)
    f.refuse("prompt", "must hold at most " + std::to_string(prompts_max) + " prompts (gateway.prompts_max)");
  for (const json::value& one : *list) request.prompts.push_back(prompt_of(f, "prompt", one));
}

void read_stop(const Fields& f, uint32_t stop_strings_max, CompletionRequest& request) {
  const json::value* stop = f.find("stop");
  if (!stop) return;
  const auto add = [&](const json::value& v) {
    if (!v.is_string()) f.refuse("stop", "must be a string or an array of strings");
    if (v.get_string().empty()) f.refuse("stop", "must not hold an empty string");
    if (v.get_string().size() > stop_string_bytes_max)
      f.refuse("stop", "must not hold strings above " + std::to_string(stop_string_bytes_max) + " bytes");
    request.stop.emplace_back(v.get_string());
  };
  const json::array* list = stop->if_array();
  if (!list && neutral(*stop)) return;
  if (!list) return add(*stop);
  if (list->size() > stop_strings_max)
    f.refuse("stop", "must hold at most " + std::to_string(stop_strings_max) + " strings");
  for (const json::value& v : *list) add(v);
}

void read_logprobs(const Fields& f, CompletionRequest& request) {
  model::Sampling& s = request.sampling;
  if (request.endpoint == Endpoint::completions) {
    const json::value* asked = f.find("logprobs");
    if (!asked || neutral(*asked)) return;
    const auto top = f.integer("logprobs", 0, completion_logprobs_max);
    s.logprobs = top.has_value();
    s.top_logprobs = static_cast<uint32_t>(top.value_or(0));
    return;
  }
  s.logprobs = f.boolean("logprobs");
  const auto top = f.integer("top_logprobs", 0, chat_top_logprobs_max);
  if (top.value_or(0) > 0 && !s.logprobs) f.refuse("top_logprobs", "needs 'logprobs' to be true");
  s.top_logprobs = static_cast<uint32_t>(top.value_or(0));
}

void read_sampling(const Fields& f, CompletionRequest& request) {
  model::Sampling& s = request.sampling;
  s.temperature = f.number("temperature", 1, 0, 2);
  s.top_p = f.number("top_p", 1, 0, 1);
  if (s.top_p == 0) {  // nothing but the most likely token: greedy
    s.temperature = 0;
    s.top_p = 1;
  }
  s.min_p = f.number("min_p", 0, 0, 1);
  s.presence_penalty = f.number("presence_penalty", 0, -2, 2);
  s.frequency_penalty = f.number("frequency_penalty", 0, -2, 2);
  s.repetition_penalty = f.number("repetition_penalty", 1, 0, 10, true);
  constexpr int64_t int32_max = std::numeric_limits<int32_t>::max();
  s.top_k =
      static_cast<uint32_t>(std::max<int64_t>(0, f.integer("top_k", -1, int32_max).value_or(0)));  // −1: all
  const auto seed =
      f.integer("seed", std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max());
  request.seeded = seed.has_value();
  s.seed = static_cast<uint64_t>(seed.value_or(0));
  for (const char* name : {"max_tokens", "max_completion_tokens"}) {  // the newer name wins
    if (const auto max = f.integer(name, 1, int32_max)) {
      request.max_tokens = static_cast<uint32_t>(*max);
      request.max_tokens_field = name;
    }
  }
  request.ignore_eos = f.boolean("ignore_eos");
  s.min_tokens = static_cast<uint32_t>(f.integer("min_tokens", 0, int32_max).value_or(0));
  if (request.max_tokens && s.min_tokens > *request.max_tokens)
    f.refuse("min_tokens", "must not be above '" + request.max_tokens_field + "'");
}

void read_streaming(const Fields& f, CompletionRequest& request) {
  request.stream = f.boolean("stream");
  request.return_token_ids = f.boolean("return_token_ids");
  const json::value* options = f.find("stream_options");
  if (!options) return;
  if (!options->is_object()) f.refuse("stream_options", "must be an object");
  const bool include_usage = Fields(options->get_object(), "stream_options.").boolean("include_usage");
  if (include_usage && !request.stream) f.refuse("stream_options", "is only allowed when 'stream' is true");
  request.include_usage = include_usage;
}

/// For whom, and how: nothing of it changes what an answer says.
void read_scheduling(const Fields& f, uint32_t choices_max, CompletionRequest& request) {
  if (const json::value* user = f.find("user")) {
    if (!user->is_string()) f.refuse("user", "must be a string");
    if (user->get_string().size() > user_bytes_max)
      f.refuse("user", "must not be longer than " + std::to_string(user_bytes_max) + " bytes");
    request.user = user->get_string();
  }
  request.priority = static_cast<uint8_t>(
      f.integer("priority", 0, actors::priorities - 1).value_or(actors::priority_default));
  if (const json::value* how = f.find("speculation")) {
    if (*how != "prompt_lookup" && *how != "off") f.refuse("speculation", "must be 'prompt_lookup' or 'off'");
    request.speculation = *how == "prompt_lookup";
  }
  request.choices = static_cast<uint32_t>(f.integer("n", 1, choices_max).value_or(1));
  if (request.endpoint == Endpoint::completions &&
      f.integer("best_of", 1, choices_max).value_or(request.choices) != request.choices)
    f.unsupported("best_of", "other than 'n' is not supported");
}

json::object object_of(std::string_view body) {
  json::parse_options options;
  options.max_depth = json_depth_max;
  json::error_code ec;
  json::parser parser({}, options);
  // Freed as a whole: a body of a hundred thousand messages is half a million pieces.
  parser.reset(json::make_shared_resource<json::monotonic_resource>());
  const size_t used = parser.write_some(body.data(), body.size(), ec);
  if (ec == json::error::too_deep)
    throw bad_request("the body is nested deeper than " + std::to_string(json_depth_max) + " levels", {});
  if (ec || used < body.size()) throw bad_request("the body " + model::json_problem(body, used, ec), {});
  json::value value = parser.release();
  if (!value.is_object()) throw bad_request("the body must be a JSON object", {});
  return std::move(value.get_object());
}

}  // namespace

const model::Message& ChatMessages::read(size_t index) {
  const Fields message(list_[index].get_object());
  last_.role = role_of(message);
  last_.content = content_of(message);
  return last_;
}

std::variant<CompletionRequest, ApiError> parse_request(Endpoint endpoint, std::string_view body,
                                                        const actors::ClusterConfig::Gateway& limits) {
  try {
    CompletionRequest request;
    request.endpoint = endpoint;
    request.body.emplace(object_of(body));
    const Fields f(*request.body);
    request.model = f.text("model");
    if (endpoint == Endpoint::chat)
      check_messages(f);
    else
      read_prompts(f, limits.prompts_max, request);
    refuse_unsupported(f, *request.body, endpoint);
    read_sampling(f, request);
    read_logprobs(f, request);
    read_stop(f, limits.stop_strings_max, request);
    read_streaming(f, request);
    read_scheduling(f, limits.choices_max, request);
    return request;
  } catch (const ApiError& error) {
    return error;
  }
}

json::value prompt_value(const PromptInput& prompt) {
  if (const auto* text = std::get_if<std::string>(&prompt)) return json::value(*text);
  json::array ids;
  for (const int32_t id : std::get<std::vector<int32_t>>(prompt)) ids.push_back(id);
  return ids;
}

}  // namespace convoy::gateway
