#include "gateway/choice.hpp"

#include <algorithm>

#include "actors/stage/step_codec.hpp"
#include "gateway/random_id.hpp"

namespace convoy::gateway {

namespace {

constexpr uint32_t attempt = 0;  // this version asks once; answers of any other attempt are not ours

double seconds(std::chrono::steady_clock::duration d) { return std::chrono::duration<double>(d).count(); }

capnp::Data::Reader data_of(const std::string& bytes) {
  return {reinterpret_cast<const kj::byte*>(bytes.data()), bytes.size()};
}

}  // namespace

Choice::Choice(Edge& edge, const CompletionRequest& request, Prompt prompt, uint32_t number,
               std::string cache_key)
    : edge_(edge),
      request_(request),
      prompt_(std::move(prompt)),
      prompt_tokens_(prompt_.tokens.size()),
      which_(number),
      cache_key_(std::move(cache_key)),
      number_(edge.next_request.fetch_add(1)),
      reader_(edge.model, request, prompt_.max_tokens) {}

Choice::~Choice() { release(); }

void Choice::ask(const Asking& asking) {
  began_ = asking.began;
  model::Sampling sampling = request_.sampling;
  if (request_.deterministic())
    sampling.seed = request_.seed_of(which_);
  else
    random_bytes(&sampling.seed, sizeof sampling.seed);
  if (!request_.ignore_eos) sampling.end_tokens = edge_.model.end_tokens;

  schema::FrameBuilder<schema::Generate> generate(64 + prompt_tokens_ / 2);
  generate->setRequestId(asking.request_id);
  generate->initReplyTo().setNode(edge_.options.node);
  generate->getReplyTo().setRequest(number_);
  auto tokens = generate->initTokens(static_cast<unsigned>(prompt_tokens_));
  for (unsigned i = 0; i < tokens.size(); ++i) tokens.set(i, prompt_.tokens[i]);
  std::vector<int32_t>().swap(prompt_.tokens);  // an assignment would keep the memory
  actors::encode(sampling, generate->initSampling());
  generate->setMaxTokens(prompt_.max_tokens);
  generate->setDeadlineMs(asking.deadline_ms);
  generate->setCacheKey(data_of(cache_key_));
  generate->setAttempt(attempt);
  generate->setTenant(asking.tenant);
  generate->setSalt(request_.user);
  generate->setPriority(request_.priority);
  if (request_.speculation.value_or(edge_.options.speculation)) generate->setDrafts(edge_.options.drafts_max);
  caf::anon_send(edge_.mailroom, OpenMailbox{number_, asking.mailbox});
  state_ = State::asked;
  actors::mail(edge_.cache, std::move(generate).finish());
}

std::optional<ApiError> Choice::take(schema::Accepted::Reader accepted) {
  if (accepted.getAttempt() == attempt) started(false);
  return {};
}

std::optional<ApiError> Choice::take(schema::Tokens::Reader tokens) {
  if (tokens.getAttempt() != attempt || state_ == State::released) return {};
  started(tokens.getFromCache());
  if (tokens.hasFacts()) learn(tokens.getFacts());
  const size_t known = piece_.tokens.size();
  const uint32_t seen = reader_.tokens();
  const auto why = reader_.take(tokens, piece_);
  count(reader_.tokens() - seen);
  // A body needs all tokens, the cache too; a stream that is not kept needs only the latest.
  if (!request_.stream || (!cache_key_.empty() && !hit_))
    whole_.tokens.insert(whole_.tokens.end(), piece_.tokens.begin() + static_cast<ptrdiff_t>(known),
                         piece_.tokens.end());
  if (!request_.stream) piece_.tokens.clear();
  if (why) return broken_answer(*why);
  return {};
}

/// Counted as they come: an answer may take minutes.
void Choice::count(uint32_t new_tokens) {
  if (new_tokens == 0) return;
  const auto now = Clock::now();
  if (!first_token_) {
    first_token_ = now;
    edge_.metrics.of(hit_).first_token_seconds.Observe(seconds(now - began_));
  } else if (!hit_) {
    between_tokens_.add(seconds(now - last_token_) / new_tokens, new_tokens);
  }
  last_token_ = now;
  edge_.metrics.of(hit_).completion_tokens.Increment(new_tokens);
}

std::optional<ApiError> Choice::take(schema::Finished::Reader finished) {
  if (finished.getAttempt() != attempt || state_ == State::released) return {};
  started(finished.getFromCache());
  if (finished.hasFacts()) learn(finished.getFacts());
  state_ = State::over;
  if (const auto why = reader_.take(finished, piece_)) return broken_answer(*why);
  return {};
}

std::optional<ApiError> Choice::take(schema::Rejected::Reader rejected) {
  if (rejected.getAttempt() != attempt || state_ == State::released) return {};
  state_ = State::over;
  const std::string message = rejected.getMessage().cStr();
  const uint32_t retry_after_ms = std::max(1u, rejected.getRetryAfterMs());
  switch (rejected.getReason()) {
    case schema::Rejected::Reason::OVERLOADED:
      return overloaded(message, retry_after_ms);
    case schema::Rejected::Reason::NOT_READY:
      return ApiError{503, "the cluster is not ready: " + message, {}, "not_ready", retry_after_ms};
    default:
      return bad_request("the cluster refused the request: " + message, {});
  }
}

void Choice::started(bool from_cache) {
  if (state_ == State::asked) state_ = State::accepted;
  if (from_cache) {
    hit_ = !cache_key_.empty();
    state_ = State::over;
  }
  if (!std::exchange(counted_, true))
    edge_.metrics.of(hit_).prompt_tokens.Increment(static_cast<double>(prompt_tokens_));
}

void Choice::learn(schema::RequestFacts::Reader facts) {
  facts_ = {facts.getCachedTokens(), facts.getPreemptions(), facts.getQueueMs(),
            facts.getPrefillMs(),    facts.getDecodeMs(),    facts.getPreemptedMs()};
}

Piece Choice::take_whole() {
  whole_.text = std::move(piece_.text);
  return std::move(whole_);
}

/// The mailbox closes before the Cancel is sent (CloseMailbox).
void Choice::release() {
  const State before = std::exchange(state_, State::released);
  if (before == State::released) return;
  caf::anon_send(edge_.mailroom, CloseMailbox{number_});
  if (before != State::over) cancel(edge_.router, edge_.options.node, number_);
}

void Choice::settle() {
  if (state_ == State::released) return;
  if (state_ == State::accepted && first_token_)  // a stop string ended it: the cluster has not said
    facts_.decode_ms = static_cast<uint32_t>(
        std::chrono::duration_cast<std::chrono::milliseconds>(last_token_ - *first_token_).count());
  between_tokens_.observe(edge_.metrics.between_tokens_seconds);
  edge_.metrics.of(hit_).request_seconds.Observe(seconds(Clock::now() - began_));
  edge_.metrics.cache(cache_key_.empty() ? "bypass" : hit_ ? "hit" : "miss");
  if (!cache_key_.empty() && !hit_) store();
  release();
}

/// Only whole answers get here. Up to a stop string if one ended it: replayed, it ends at the same token.
void Choice::store() {
  schema::FrameBuilder<schema::Store> store(64 + whole_.tokens.size() * 4);
  store->setCacheKey(data_of(cache_key_));
  auto answer = store->initAnswer();
  answer.setReason(*reader_.finish_reason() == FinishReason::stop ? schema::Finished::Reason::STOP
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
