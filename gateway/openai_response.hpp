#pragma once
// OpenAI's bodies and server-sent events, from plain values. Pure; any thread.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "gateway/answer.hpp"
#include "gateway/api_error.hpp"
#include "gateway/gateway.hpp"
#include "gateway/openai_request.hpp"

namespace convoy::gateway {

/// A reader of events may have a limit for a line. Only what one token adds may be more.
constexpr size_t event_bytes_max = 64 << 10;

struct Usage {
  uint64_t prompt_tokens = 0, completion_tokens = 0;  // end tokens included
  uint64_t cached_tokens = 0;                         // of the prompts', found in KV blocks of earlier ones
};

/// Writes the bodies of one answer.
class AnswerWriter {
 public:
  /// model and request must outlive it. created: Unix seconds.
  AnswerWriter(const ServedModel& model, const CompletionRequest& request, std::string id, int64_t created);

  /// The whole answer as one JSON object; of several prompts, the choices in their order.
  struct Whole {
    Piece piece;
    FinishReason finish;
  };
  std::string body(const std::vector<Whole>& choices, const Usage& usage) const;

  /// Each is one event, several or none: a chat's first chunks with the role, one for each choice, what a
  /// piece adds (in events of at most event_bytes_max), the end (finish reason, usage if asked for, [DONE]).
  std::string first_events(size_t choices) const;
  std::string piece_events(size_t index, const Piece& piece) const;
  std::string finish_event(size_t index, FinishReason finish) const;
  std::string end_events(const Usage& usage) const;

 private:
  bool chat() const { return request_.endpoint == Endpoint::chat; }
  boost::json::object envelope(const char* object) const;
  boost::json::object choice(size_t index, const Piece& piece) const;
  boost::json::value logprobs(const Piece& piece) const;
  boost::json::object chat_logprob(int32_t id, float logprob) const;
  std::string piece_event(size_t index, const Piece& piece) const;
  size_t token_bytes(const AnswerToken& token) const;
  std::string chunk(boost::json::object choice) const;

  const ServedModel& model_;
  const CompletionRequest& request_;
  std::string id_;
  int64_t created_;
};

std::string error_body(const ApiError& error);
/// What a stream says before it is cut off: the answer is not whole.
std::string error_event(const ApiError& error);
/// name: by which it is asked for, its id or an alias.
std::string model_body(const ServedModel& model, std::string_view name);
/// Each by its id and by each alias.
std::string models_body(const ServedModels& models);
std::string ready_body(const std::string& why_not);  // empty: ready

}  // namespace convoy::gateway
