#include "gateway/answer.hpp"

#include <algorithm>

namespace convoy::gateway {

namespace {

/// A chat's answer is a text of its own; what completes a prompt goes on with it, blank and all.
bool drops_blank(const ServedModel& model, const CompletionRequest& request) {
  return request.endpoint == Endpoint::chat && model.tokenizer && model.tokenizer->drops_leading_blank();
}

}  // namespace

AnswerReader::AnswerReader(const ServedModel& model, const CompletionRequest& request, uint32_t max_tokens)
    : model_(model),
      ignore_eos_(request.ignore_eos),
      min_tokens_(request.sampling.min_tokens),
      max_tokens_(max_tokens),
      detokenizer_(request.stop, drops_blank(model, request)) {}

std::optional<std::string> AnswerReader::take(schema::Tokens::Reader tokens, Piece& piece) {
  if (finish_) return {};  // more than a stop string needed
  const uint32_t first = tokens.getFirstIndex();
  if (first > seen_)
    return "tokens are missing: got index " + std::to_string(first) + " after " + std::to_string(seen_) +
           " tokens";
  uint32_t index = first;
  for (auto token : tokens.getTokens()) {
    if (index++ < seen_) continue;  // a repeat: messages are idempotent
    if (seen_ == max_tokens_)
      return "more than the " + std::to_string(max_tokens_) + " tokens that were asked for";
    if (token.getId() < 0 || token.getId() >= model_.vocab)
      return "token id " + std::to_string(token.getId()) + " is not in the vocabulary";
    add(token, piece);
    if (finish_) break;
  }
  return {};
}

void AnswerReader::add(schema::Token::Reader token, Piece& piece) {
  AnswerToken t{token.getId(), token.getLogprob(), {}, detokenizer_.characters(), false};
  for (auto candidate : token.getTop()) t.top.emplace_back(candidate.getId(), candidate.getLogprob());
  t.end = !ignore_eos_ &&
          std::find(model_.end_tokens.begin(), model_.end_tokens.end(), t.id) != model_.end_tokens.end();
  ++seen_;
  if (model_.tokenizer && !t.end && !model_.tokenizer->is_control(t.id) &&
      detokenizer_.push(model_.tokenizer->bytes(t.id), piece.text, seen_ > min_tokens_))
    finish_ = FinishReason::stop;
  piece.tokens.push_back(std::move(t));
}

std::optional<std::string> AnswerReader::take(schema::Finished::Reader finished, Piece& piece) {
  if (finish_) return {};
  using Reason = schema::Finished::Reason;
  const Reason reason = finished.getReason();
  if (reason != Reason::STOP && reason != Reason::LENGTH)
    return reason == Reason::CANCELLED ? "it was cancelled" : std::string(finished.getMessage().cStr());
  if (finished.getTokens() != seen_)
    return "got " + std::to_string(seen_) + " of " + std::to_string(finished.getTokens()) + " tokens";
  const bool stopped = detokenizer_.finish(piece.text);
  finish_ = stopped || reason == Reason::STOP ? FinishReason::stop : FinishReason::length;
  return {};
}

}  // namespace convoy::gateway
