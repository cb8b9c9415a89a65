#pragma once
// AnswerReader: holds the cluster's messages of one answer against each other (order, repeats, gaps, counts)
// and turns their tokens into text. Pure; each choice has its own, on its session's strand.

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gateway/detokenizer.hpp"
#include "gateway/gateway.hpp"
#include "gateway/openai_request.hpp"
#include "schema/frame.hpp"

namespace convoy::gateway {

struct AnswerToken {
  int32_t id = 0;
  float logprob = 0;
  std::vector<std::pair<int32_t, float>> top;  // best first
  uint64_t text_offset = 0;                    // characters of the answer before it
  bool end = false;                            // an end token: counted, but has no text
};

/// What one message, or all of them, add to the answer. Text may lag behind the tokens: part of it may still
/// become a stop string or the rest of a character.
struct Piece {
  std::string text;
  std::vector<AnswerToken> tokens;
};

enum class FinishReason { stop, length };

class AnswerReader {
 public:
  /// model must outlive it. max_tokens: more than the cluster was asked for is a failure.
  AnswerReader(const ServedModel& model, const CompletionRequest& request, uint32_t max_tokens);

  /// Both append to `piece`; what they return is why the messages cannot be one whole answer, if so.
  std::optional<std::string> take(schema::Tokens::Reader tokens, Piece& piece);
  std::optional<std::string> take(schema::Finished::Reader finished, Piece& piece);

  /// Set once the answer is whole: after Finished, or after the token that completed a stop string.
  std::optional<FinishReason> finish_reason() const { return finish_; }
  uint32_t tokens() const { return seen_; }

 private:
  void add(schema::Token::Reader token, Piece& piece);

  const ServedModel& model_;
  const bool ignore_eos_;
  const uint32_t min_tokens_, max_tokens_;
  Detokenizer detokenizer_;
  uint32_t seen_ = 0;
  std::optional<FinishReason> finish_;
};

}  // namespace convoy::gateway
