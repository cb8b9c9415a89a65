#include "gateway/openai_response.hpp"

#include <cmath>

namespace convoy::gateway {

namespace json = boost::json;

namespace {

std::string event(const json::object& data) { return "data: " + json::serialize(data) + "\n\n"; }

const char* name(FinishReason reason) { return reason == FinishReason::stop ? "stop" : "length"; }

json::object usage_object(const Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
          {"prompt_tokens_details", json::object{{"cached_tokens", usage.cached_tokens}}}};
}

/// A token as a text of its own: what is only part of a character is U+FFFD. Without a tokenizer its id.
std::string token_text(const ServedModel& model, int32_t id) {
  if (!model.tokenizer) return "token_id:" + std::to_string(id);
  std::string text;
  Utf8Decoder decoder;
  decoder.push(model.tokenizer->bytes(id), text);
  decoder.finish(text);
  return text;
}

/// The same where nothing else tells tokens apart: one that is not text by itself is "bytes:\\xe2\\x80", as
/// OpenAI's completions have it.
std::string token_key(const ServedModel& model, int32_t id) {
  std::string text = token_text(model, id);
  if (!model.tokenizer || text == model.tokenizer->bytes(id)) return text;
  text = "bytes:";
  for (const char c : model.tokenizer->bytes(id)) {
    constexpr char hex[] = "0123456789abcdef";
    const auto byte = static_cast<unsigned char>(c);
    text += {'\\', 'x', hex[byte >> 4], hex[byte & 15]};
  }
  return text;
}

/// At most what the text takes in JSON.
size_t json_bytes(char c) {
  if (static_cast<unsigned char>(c) < 0x20) return 6;  // \u001f
  return c == '"' || c == '\\' ? 2 : 1;
}

/// How much of the text from `begin` takes at most `bytes_max` in JSON, at least one whole character.
size_t slice_size(std::string_view text, size_t begin, size_t bytes_max) {
  const auto continues = [&](size_t i) { return (static_cast<unsigned char>(text[i]) & 0xC0) == 0x80; };
  size_t end = begin, bytes = 0;
  while (end < text.size()) {
    size_t next = end + 1, more = json_bytes(text[end]);
    for (; next < text.size() && continues(next); ++next) ++more;
    if (bytes + more > bytes_max && end > begin) break;
    bytes += more;
    end = next;
  }
  return end - begin;
}

/// JSON has no infinities: a token that could not be drawn gets what OpenAI's API says then.
double finite(float logprob) { return std::isfinite(logprob) ? logprob : -9999.0; }

json::array token_ids(const Piece& piece) {
  json::array ids;
  for (const AnswerToken& t : piece.tokens) ids.push_back(t.id);
  return ids;
}

json::object error_object(const ApiError& error) {
  const auto or_null = [](const std::string& s) { return s.empty() ? json::value(nullptr) : json::value(s); };
  return {{"error", json::object{{"message", error.message},
                                 {"type", error.type()},
                                 {"param", or_null(error.param)},
                                 {"code", or_null(error.code)}}}};
}

json::object model_object(const ServedModel& model, std::string_view name) {
  return {{"id", name},
          {"object", "model"},
          {"created", model.created},
          {"owned_by", "convoy"},
          {"root", model.id},  // as vLLM names this and the next
          {"max_model_len", model.context_tokens}};
}

}  // namespace

AnswerWriter::AnswerWriter(const ServedModel& model, const CompletionRequest& request, std::string id,
                           int64_t created)
    : model_(model), request_(request), id_(std::move(id)), created_(created) {}

json::object AnswerWriter::envelope(const char* object) const {
  json::value fingerprint;  // null: the weights' digest is not known yet
  if (const auto digest = model_.weights_digest.get(); !digest.empty())
    fingerprint = "fp_" + digest.substr(0, 12);
  return {{"id", id_},
          {"object", object},
          {"created", created_},
          {"model", model_.id},
          {"system_fingerprint", std::move(fingerprint)}};
}

json::object AnswerWriter::chat_logprob(int32_t id, float logprob) const {
  json::array bytes;
  if (model_.tokenizer)
    for (char c : model_.tokenizer->bytes(id)) bytes.push_back(static_cast<unsigned char>(c));
  return {{"token", token_text(model_, id)}, {"logprob", finite(logprob)}, {"bytes", std::move(bytes)}};
}

json::value AnswerWriter::logprobs(const Piece& piece) const {
  if (!request_.sampling.logprobs) return nullptr;
  if (chat()) {
    json::array content;
    for (const AnswerToken& t : piece.tokens) {
      if (t.end) continue;
      json::object entry = chat_logprob(t.id, t.logprob);
      json::array& top = entry["top_logprobs"].emplace_array();
      for (const auto& [id, logprob] : t.top) top.push_back(chat_logprob(id, logprob));
      content.push_back(std::move(entry));
    }
    return json::object{{"content", std::move(content)}, {"refusal", nullptr}};
  }
  json::array tokens, values, tops, offsets;
  for (const AnswerToken& t : piece.tokens) {
    if (t.end) continue;
    tokens.push_back(json::value(token_key(model_, t.id)));
    values.push_back(finite(t.logprob));
    offsets.push_back(t.text_offset);
    json::object top;
    for (const auto& [id, logprob] : t.top) top.emplace(token_key(model_, id), finite(logprob));
    tops.push_back(request_.sampling.top_logprobs ? json::value(std::move(top)) : json::value(nullptr));
  }
  return json::object{{"tokens", std::move(tokens)},
                      {"token_logprobs", std::move(values)},
                      {"top_logprobs", std::move(tops)},
                      {"text_offset", std::move(offsets)}};
}

/// Without its text: that is a message, a delta or plain.
json::object AnswerWriter::choice(size_t index, const Piece& piece) const {
  json::object choice{{"index", index}, {"logprobs", logprobs(piece)}, {"finish_reason", nullptr}};
  if (request_.return_token_ids) choice["token_ids"] = token_ids(piece);
  return choice;
}

std::string AnswerWriter::body(const std::vector<Whole>& choices, const Usage& usage) const {
  json::object body = envelope(chat() ? "chat.completion" : "text_completion");
  json::array& list = body["choices"].emplace_array();
  for (const auto& [whole, finish] : choices) {
    json::object choice = this->choice(list.size(), whole);
    choice["finish_reason"] = name(finish);
    if (chat())
      choice["message"] = json::object{{"role", "assistant"}, {"content", whole.text}, {"refusal", nullptr}};
    else
      choice["text"] = whole.text;
    list.push_back(std::move(choice));
  }
  body["usage"] = usage_object(usage);
  return json::serialize(body);
}

std::string AnswerWriter::chunk(json::object choice) const {
  json::object body = envelope(chat() ? "chat.completion.chunk" : "text_completion");
  body["choices"].emplace_array().push_back(std::move(choice));
  if (request_.include_usage) body["usage"] = nullptr;
  return event(body);
}

std::string AnswerWriter::first_events(size_t choices) const {
  std::string events;
  for (size_t index = 0; chat() && index < choices; ++index)
    events += chunk({{"index", index},
                     {"delta", json::object{{"role", "assistant"}, {"content", ""}}},
                     {"logprobs", nullptr},
                     {"finish_reason", nullptr}});
  return events;
}

std::string AnswerWriter::piece_event(size_t index, const Piece& piece) const {
  const bool tells_tokens =
      !piece.tokens.empty() && (request_.sampling.logprobs || request_.return_token_ids);
  if (piece.text.empty() && !tells_tokens) return {};
  json::object choice = this->choice(index, piece);
  if (chat())
    choice["delta"] = json::object{{"content", piece.text}};
  else
    choice["text"] = piece.text;
  return chunk(std::move(choice));
}

/// At most what the token adds to an event beside its text.
size_t AnswerWriter::token_bytes(const AnswerToken& token) const {
  constexpr size_t id_bytes = 12, fields_bytes = 96, per_byte = 10;  // \u00ff or \xff, and "255," in `bytes`
  size_t bytes = request_.return_token_ids ? id_bytes : 0;
  if (!request_.sampling.logprobs) return bytes;
  const auto entry = [&](int32_t id) {
    return fields_bytes + (model_.tokenizer ? per_byte * model_.tokenizer->bytes(id).size() : id_bytes);
  };
  bytes += entry(token.id);
  for (const auto& [id, logprob] : token.top) bytes += entry(id);
  return bytes;
}

/// An answer from the cache, or what a slow reader left waiting, comes as one piece.
std::string AnswerWriter::piece_events(size_t index, const Piece& piece) const {
  constexpr size_t half = event_bytes_max / 2 - 512;  // for the text and for the tokens; 1 KB for the rest
  size_t tokens_bytes = 0;
  for (const AnswerToken& t : piece.tokens) tokens_bytes += token_bytes(t);
  if (tokens_bytes <= half && slice_size(piece.text, 0, half) == piece.text.size())
    return piece_event(index, piece);
  std::string events;
  size_t text = 0, token = 0;
  do {
    Piece part;
    const size_t slice = slice_size(piece.text, text, half);
    part.text = piece.text.substr(text, slice);
    text += slice;
    for (size_t bytes = 0; token < piece.tokens.size(); ++token) {
      bytes += token_bytes(piece.tokens[token]);
      if (bytes > half && !part.tokens.empty()) break;
      part.tokens.push_back(piece.tokens[token]);
    }
    events += piece_event(index, part);
  } while (text < piece.text.size() || token < piece.tokens.size());
  return events;
}

std::string AnswerWriter::finish_event(size_t index, FinishReason finish) const {
  json::object last{{"index", index}, {"logprobs", nullptr}, {"finish_reason", name(finish)}};
  if (chat())
    last["delta"] = json::object{};
  else
    last["text"] = "";
  return chunk(std::move(last));
}

std::string AnswerWriter::end_events(const Usage& usage) const {
  std::string events;
  if (request_.include_usage) {
    json::object body = envelope(chat() ? "chat.completion.chunk" : "text_completion");
    body["choices"].emplace_array();
    body["usage"] = usage_object(usage);
    events += event(body);
  }
  return events + "data: [DONE]\n\n";
}

std::string error_body(const ApiError& error) { return json::serialize(error_object(error)); }

std::string error_event(const ApiError& error) { return event(error_object(error)); }

std::string model_body(const ServedModel& model, std::string_view name) {
  return json::serialize(model_object(model, name));
}

std::string models_body(const ServedModels& models) {
  json::object list{{"object", "list"}};
  json::array& data = list["data"].emplace_array();
  for (const ServedModel& model : models.list()) {
    data.push_back(model_object(model, model.id));
    for (const std::string& alias : model.aliases) data.push_back(model_object(model, alias));
  }
  return json::serialize(list);
}

std::string ready_body(const std::string& why_not) {
  if (why_not.empty()) return json::serialize(json::object{{"ready", true}});
  return json::serialize(json::object{{"ready", false}, {"reason", why_not}});
}

}  // namespace convoy::gateway
