// The cluster's side of a completion: what it says, and what it is told when the answer ends.

#include <kj/exception.h>

#include <algorithm>

#include "gateway/completion.hpp"

namespace convoy::gateway {

namespace {

ApiError broken_answer(const std::string& why) {
  return {503, "the answer could not be completed: " + why, {}, "generation_failed", 1};
}

}  // namespace

void Completion::take(Event event) {
  try {
    if (auto* accepted = std::get_if<schema::Frame<schema::Accepted>>(&event)) {
      if (schema::Reading(*accepted)->getAttempt() == attempt_) started_ = true;
    } else if (auto* tokens = std::get_if<schema::Frame<schema::Tokens>>(&event)) {
      take_tokens(*tokens);
    } else if (auto* finished = std::get_if<schema::Frame<schema::Finished>>(&event)) {
      take_finished(*finished);
    } else if (auto* rejected = std::get_if<schema::Frame<schema::Rejected>>(&event)) {
      take_rejected(*rejected);
    } else if (auto* lost = std::get_if<ClusterLost>(&event)) {
      running_ = false;
      failure_ = ApiError{503, "the cluster cannot be reached: " + lost->reason, {}, "not_ready", 1};
    } else if (std::holds_alternative<ClientGone>(event)) {
      gone_ = true;
    } else if (std::holds_alternative<Stopping>(event)) {
      failure_ = ApiError{503, "this gateway is shutting down", {}, "shutting_down", 1};
    } else {
      failure_ =
          ApiError{504,
                   "no whole answer within " + std::to_string(edge_.options.request_timeout_ms) + " ms",
                   {},
                   "timeout"};
    }
  } catch (const kj::Exception& e) {
    failure_ = broken_answer(std::string("a message cannot be read: ") + e.getDescription().cStr());
  }
}

void Completion::take_tokens(const schema::Frame<schema::Tokens>& frame) {
  schema::Reading tokens(frame);
  if (tokens->getAttempt() != attempt_) return;
  started(tokens->getFromCache());
  if (first_token_s_ < 0) {
    first_token_s_ = seconds();
    edge_.metrics.first_token_seconds.Observe(first_token_s_);
  }
  const size_t known = piece_.tokens.size();
  const auto why = reader_->take(*tokens, piece_);
  // A body needs all tokens, the cache too; a stream that is not kept needs only the latest.
  if (!request_.stream || cache_ == Cache::miss)
    whole_.tokens.insert(whole_.tokens.end(), piece_.tokens.begin() + static_cast<ptrdiff_t>(known),
                         piece_.tokens.end());
  if (!request_.stream) piece_.tokens.clear();
  if (why) failure_ = broken_answer(*why);
}

void Completion::take_finished(const schema::Frame<schema::Finished>& frame) {
  schema::Reading finished(frame);
  if (finished->getAttempt() != attempt_) return;
  running_ = false;
  const auto why = reader_->take(*finished, piece_);
  if (why)
    failure_ = broken_answer(*why);
  else
    started(finished->getFromCache());
}

void Completion::take_rejected(const schema::Frame<schema::Rejected>& frame) {
  schema::Reading rejected(frame);
  if (rejected->getAttempt() != attempt_) return;
  running_ = false;
  const std::string message = rejected->getMessage().cStr();
  const uint32_t retry_after_s = std::max(1u, (rejected->getRetryAfterMs() + 999) / 1000);
  switch (rejected->getReason()) {
    case schema::Rejected::Reason::OVERLOADED:
      failure_ = ApiError{503, "the cluster is overloaded: " + message, {}, "overloaded", retry_after_s};
      break;
    case schema::Rejected::Reason::NOT_READY:
      failure_ = ApiError{503, "the cluster is not ready: " + message, {}, "not_ready", retry_after_s};
      break;
    default:
      failure_ = bad_request("the cluster refused the request: " + message, {});
      break;
  }
}

void Completion::started(bool from_cache) {
  started_ = true;
  if (!from_cache) return;
  if (cache_ == Cache::miss) cache_ = Cache::hit;
  running_ = false;
}

/// Nobody waits for this answer any more. The mailbox closes before the Cancel is sent (CloseMailbox).
void Completion::release() {
  if (!mailbox_) return;
  if (number_) caf::anon_send(edge_.mailroom, CloseMailbox{number_});
  if (running_) cancel(edge_.router, edge_.options.node, number_);
  running_ = false;
  mailbox_.reset();
}

/// The answer is whole, whether or not its client still reads it.
void Completion::settle() {
  edge_.metrics.completion_tokens.Increment(reader_->tokens());
  edge_.metrics.cache(cache_word());
  if (cache_ == Cache::miss) store();
  release();
}

/// Only whole answers get here. Up to a stop string if one ended it: replayed, it ends at the same token.
void Completion::store() {
  schema::FrameBuilder<schema::Store> store(64 + whole_.tokens.size() * 4);
  store->setCacheKey(
      capnp::Data::Reader(reinterpret_cast<const kj::byte*>(cache_key_.data()), cache_key_.size()));
  auto answer = store->initAnswer();
  answer.setReason(*reader_->finish_reason() == FinishReason::stop ? schema::Finished::Reason::STOP
                                                                   : schema::Finished::Reason::LENGTH);
  auto tokens = answer.initTokens(static_cast<unsigned>(whole_.tokens.size()));
  for (unsigned i = 0; i < tokens.size(); ++i) {
    const AnswerToken& from = whole_.tokens[i];
    tokens[i].setId(from.id);
    tokens[i].setLogprob(from.logprob);
    auto top = tokens[i].initTop(static_cast<unsigned>(from.top.size()));
    for (unsigned k = 0; k < top.size(); ++k) {
      top[k].setId(from.top[k].first);
      top[k].setLogprob(from.top[k].second);
    }
  }
  actors::mail(edge_.cache, std::move(store).finish());
}

}  // namespace convoy::gateway
