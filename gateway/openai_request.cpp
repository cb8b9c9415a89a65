#include "gateway/openai_request.hpp"

#include <cmath>
#include <initializer_list>
#include <limits>

namespace convoy::gateway {

namespace json = boost::json;

namespace {

/// Reads one object's fields; throws ApiError, which parse_request() returns.
class Fields {
 public:
  explicit Fields(const json::object& object, std::string prefix = {})
      : object_(object), prefix_(std::move(prefix)) {}

  const json::value* find(std::string_view key) const {
    const json::value* v = object_.if_contains(key);
    return v && !v->is_null() ? v : nullptr;
  }
  std::string path(std::string_view key) const { return prefix_ + std::string(key); }

  [[noreturn]] void refuse(std::string_view key, const std::string& why) const {
    throw bad_request("'" + path(key) + "' " + why, path(key));
  }

  const json::value& required(std::string_view key) const {
    if (const json::value* v = find(key)) return *v;
    throw bad_request("you must provide '" + path(key) + "'", path(key), "missing_required_parameter");
  }
  std::string text(std::string_view key) const {
    const json::value& v = required(key);
    if (!v.is_string()) refuse(key, "must be a string");
    return std::string(v.get_string());
  }
  bool boolean(std::string_view key) const {
    const json::value* v = find(key);
    if (!v) return false;
    if (!v->is_bool()) refuse(key, "must be true or false");
    return v->get_bool();
  }
  std::optional<int64_t> integer(std::string_view key, int64_t min, int64_t max) const {
    const json::value* v = find(key);
    if (!v) return {};
    const bool small = v->is_int64();
    if (!small && !v->is_uint64()) refuse(key, "must be an integer");
    if (!small || v->get_int64() < min || v->get_int64() > max)
      refuse(key, "must be an integer from " + std::to_string(min) + " to " + std::to_string(max));
    return v->get_int64();
  }
  /// A number in [min, max], or in (min, max] if open.
  float number(std::string_view key, double fallback, double min, double max, bool open = false) const {
    const json::value* v = find(key);
    if (!v) return static_cast<float>(fallback);
    if (!v->is_number()) refuse(key, "must be a number");
    const double x = v->to_number<double>();
    if (!(x <= max) || (open ? !(x > min) : !(x >= min)))
      refuse(key, std::string("must be a number ") + (open ? "above " : "from ") + shown(min) +
                      (open ? " and at most " : " to ") + shown(max));
    return static_cast<float>(x);
  }

 private:
  static std::string shown(double x) { return std::to_string(static_cast<int>(x)); }
  const json::object& object_;
  std::string prefix_;
};

/// Fields of OpenAI's that would change the answer and that we don't have. Values that ask for nothing pass.
void refuse_unsupported(const Fields& f, Endpoint endpoint) {
  const auto neutral = [](const json::value& v) {
    return (v.is_array() && v.get_array().empty()) || (v.is_object() && v.get_object().empty()) ||
           (v.is_bool() && !v.get_bool()) || (v.is_string() && v.get_string().empty());
  };
  const auto refuse_all = [&](std::initializer_list<const char*> names) {
    for (const char* name : names)
      if (const json::value* v = f.find(name); v && !neutral(*v)) f.refuse(name, "is not supported");
  };
  refuse_all({"logit_bias"});
  if (f.integer("n", 1, 128).value_or(1) != 1) f.refuse("n", "above 1 is not supported");
  if (endpoint == Endpoint::completions) {
    refuse_all({"echo", "suffix"});
    if (f.integer("best_of", 1, 20).value_or(1) != 1) f.refuse("best_of", "above 1 is not supported");
    return;
  }
  refuse_all({"tools", "functions", "audio", "web_search_options", "reasoning_effort", "verbosity"});
  for (const char* name : {"tool_choice", "function_call"})
    if (const json::value* v = f.find(name); v && *v != "none" && *v != "auto")
      f.refuse(name, "is not supported");
  if (const json::value* v = f.find("modalities"); v && *v != json::array{"text"})
    f.refuse("modalities", "other than [\"text\"] are not supported");
  if (const json::value* v = f.find("response_format")) {
    const json::object* format = v->if_object();
    const json::value* type = format ? format->if_contains("type") : nullptr;
    if (!type || !type->is_string()) f.refuse("response_format", "must be an object with a type");
    if (*type != "text") f.refuse("response_format", "other than {\"type\": \"text\"} is not supported");
  }
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
    if (fields.text("type") != "text") fields.refuse("type", "other than 'text' is not supported");
    text += fields.text("text");
  }
  return text;
}

std::vector<model::Message> messages_of(const Fields& f) {
  const json::value& list = f.required("messages");
  if (!list.is_array()) f.refuse("messages", "must be an array");
  if (list.get_array().empty()) f.refuse("messages", "must not be empty");
  std::vector<model::Message> messages;
  for (const json::value& item : list.get_array()) {
    const std::string key = "messages[" + std::to_string(messages.size()) + "]";
    if (!item.is_object()) f.refuse(key, "must be an object");
    const Fields message(item.get_object(), key + ".");
    std::string role = message.text("role");
    if (role == "developer") role = "system";  // OpenAI's newer name for it
    if (role != "system" && role != "user" && role != "assistant")
      message.refuse("role", "must be system, developer, user or assistant");
    for (const char* name : {"name", "tool_calls", "tool_call_id", "function_call", "audio"})
      if (message.find(name)) message.refuse(name, "is not supported");
    messages.push_back({std::move(role), content_of(message)});
  }
  return messages;
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

/// A text, token ids, or an array of just one of these.
void read_prompt(const Fields& f, CompletionRequest& request) {
  const json::value* prompt = &f.required("prompt");
  if (const json::array* list = prompt->if_array(); list && !list->empty() && !(*list)[0].is_number()) {
    if (list->size() != 1) f.refuse("prompt", "must be a single prompt: several are not supported");
    prompt = &(*list)[0];
  }
  if (const json::string* text = prompt->if_string()) {
    request.prompt = std::string(*text);
  } else if (const json::array* list = prompt->if_array()) {
    if (list->empty()) f.refuse("prompt", "must not be empty");
    request.prompt = token_ids_of(f, *list);
  } else {
    f.refuse("prompt", "must be a string or an array of token ids");
  }
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
  if (!list) return add(*stop);
  if (list->size() > stop_strings_max)
    f.refuse("stop", "must hold at most " + std::to_string(stop_strings_max) + " strings");
  for (const json::value& v : *list) add(v);
}

void read_logprobs(const Fields& f, CompletionRequest& request) {
  model::Sampling& s = request.sampling;
  if (request.endpoint == Endpoint::completions) {
    const auto top = f.integer("logprobs", 0, completion_logprobs_max);
    s.logprobs = top.has_value();
    s.top_logprobs = static_cast<uint32_t>(top.value_or(0));
    return;
  }
  s.logprobs = f.boolean("logprobs");
  const auto top = f.integer("top_logprobs", 0, chat_top_logprobs_max);
  if (top && !s.logprobs) f.refuse("top_logprobs", "needs 'logprobs' to be true");
  s.top_logprobs = static_cast<uint32_t>(top.value_or(0));
}

void read_sampling(const Fields& f, CompletionRequest& request) {
  model::Sampling& s = request.sampling;
  s.temperature = f.number("temperature", 1, 0, 2);
  s.top_p = f.number("top_p", 1, 0, 1, true);
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
  if (!request.stream) f.refuse("stream_options", "is only allowed when 'stream' is true");
  request.include_usage = Fields(options->get_object(), "stream_options.").boolean("include_usage");
}

json::object object_of(std::string_view body) {
  json::parse_options options;
  options.max_depth = json_depth_max;
  json::error_code ec;
  json::value value = json::parse(body, ec, {}, options);
  if (ec == json::error::too_deep)
    throw bad_request("the body is nested deeper than " + std::to_string(json_depth_max) + " levels", {});
  if (ec) throw bad_request("the body is not JSON in UTF-8: " + ec.message(), {});
  if (!value.is_object()) throw bad_request("the body must be a JSON object", {});
  return std::move(value.get_object());
}

}  // namespace

std::variant<CompletionRequest, ApiError> parse_request(Endpoint endpoint, std::string_view body,
                                                        uint32_t stop_strings_max) {
  try {
    CompletionRequest request;
    request.endpoint = endpoint;
    request.body = object_of(body);
    const Fields f(request.body);
    request.model = f.text("model");
    if (endpoint == Endpoint::chat)
      request.messages = messages_of(f);
    else
      read_prompt(f, request);
    refuse_unsupported(f, endpoint);
    read_sampling(f, request);
    read_logprobs(f, request);
    read_stop(f, stop_strings_max, request);
    read_streaming(f, request);
    return request;
  } catch (const ApiError& error) {
    return error;
  }
}

}  // namespace convoy::gateway
