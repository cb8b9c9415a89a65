#include "gateway/choice.hpp"

#include <algorithm>

#include "actors/process/log.hpp"
#include "actors/stage/step_codec.hpp"
#include "gateway/random_id.hpp"

namespace convoy::gateway {

namespace {

double seconds(std::chrono::steady_clock::duration d) { return std::chrono::duration<double>(d).count(); }

capnp::Data::Reader data_of(const std::string& bytes) {
  return {reinterpret_cast<const kj::byte*>(bytes.data()), bytes.size()};
}

}  // namespace

Choice::Choice(Edge& edge, const ServedModel& model, const CompletionRequest& request, Prompt prompt,
               uint32_t number, CacheKey cache_key)
    : edge_(edge),
      model_(model),
      request_(request),
      prompt_(std::move(prompt)),
      prompt_tokens_(prompt_.tokens.size()),
      which_(number),
      cache_key_(std::move(cache_key)),
      number_(edge.next_request.fetch_add(1)),
      reader_(model, request, prompt_.max_tokens) {}

Choice::~Choice() { release(); }

void Choice::ask(const Asking& asking) {
  began_ = asking.began;
  model::Sampling sampling = request_.sampling;
  if (request_.deterministic())
    sampling.seed = request_.seed_of(which_);
  else
    random_bytes(&sampling.seed, sizeof sampling.seed);
  if (!request_.ignore_eos) sampling.end_tokens = model_.end_tokens;

  schema::FrameBuilder<schema::Generate> generate(64 + prompt_tokens_ / 2);
  generate->setRequestId(asking.request_id);
  generate->setModel(model_.id);
  generate->initReplyTo().setNode(edge_.options.node);
  generate->getReplyTo().setRequest(number_);
  auto tokens = generate->initTokens(static_cast<unsigned>(prompt_tokens_));
  for (unsigned i = 0; i < tokens.size(); ++i) tokens.set(i, prompt_.tokens[i]);
  std::vector<int32_t>().swap(prompt_.tokens);  // an assignment would keep the memory
  actors::encode(sampling, generate->initSampling());
  generate->setMaxTokens(prompt_.max_tokens);
  generate->setDeadlineMs(asking.deadline_ms);
  generate->setCacheKey(data_of(cache_key_.name));
  generate->setTenant(asking.tenant);
  generate->setSalt(asking.salt);
  generate->setPriority(request_.priority);
  if (request_.speculation.value_or(edge_.options.speculation)) generate->setDrafts(edge_.options.drafts_max);
  caf::anon_send(edge_.mailroom, OpenMailbox{number_, asking.mailbox});
  state_ = State::asked;
  auto asked = std::move(generate).finish();
  if (edge_.outlives_head) asked_ = asked;
  if (!edge_.reach->ask(std::move(asked))) await_cluster();
}

void Choice::interrupt() {
  if (state_ == State::released || state_ == State::interrupted || reader_.finish_reason()) return;
  state_ = State::interrupted;
  ++attempt_;
}

/// It could not be asked now.
void Choice::await_cluster() {
  interrupt();
  caf::anon_send(edge_.mailroom, AwaitCluster{number_});
}

std::optional<ApiError> Choice::ask_again() {
  if (state_ != State::interrupted) return {};
  const schema::Reading before(asked_);
  bool stopped = false;
  for (const int32_t end : before->getSampling().getEndTokens())
    stopped = stopped || (!ids_.empty() && ids_.back() == end);
  if (stopped || ids_.size() == before->getMaxTokens()) return end_of_whole(stopped);
  facts_before_ = facts_;
  schema::FrameBuilder<schema::Generate> generate(asked_.bytes()->size() / sizeof(capnp::word) +
                                                  ids_.size() / 2 + 8);
  generate->setRequestId(before->getRequestId());
  generate->setReplyTo(before->getReplyTo());
  generate->setTokens(before->getTokens());
  generate->setSampling(before->getSampling());
  generate->setMaxTokens(before->getMaxTokens());
  generate->setDeadlineMs(before->getDeadlineMs());
  // An answer that the cache has by now may be another than the one that has begun.
  if (ids_.empty()) generate->setCacheKey(before->getCacheKey());
  generate->setAttempt(attempt_);
  generate->setTenant(before->getTenant());
  generate->setSalt(before->getSalt());
  generate->setPriority(before->getPriority());
  generate->setDrafts(before->getDrafts());
  generate->setModel(before->getModel());
  generate->setGenerated(kj::arrayPtr(ids_.data(), ids_.size()));
  state_ = State::asked;
  edge_.metrics.resumed.Increment();
  log::info("request.resumed", {{"id", before->getRequestId().cStr()}, {"tokens", ids_.size()}});
  if (!edge_.reach->ask(std::move(generate).finish())) await_cluster();
  return {};
}

/// All of it was there when its last message was lost.
std::optional<ApiError> Choice::end_of_whole(bool stopped) {
  schema::FrameBuilder<schema::Finished> end;
  end->setAttempt(attempt_);
  end->setReason(stopped ? schema::Finished::Reason::STOP : schema::Finished::Reason::LENGTH);
  end->setTokens(reader_.tokens());
  end->setFromCache(hit_);
  return take(end->asReader());
}

std::optional<ApiError> Choice::take(schema::Accepted::Reader accepted) {
  if (accepted.getAttempt() != attempt_) return {};
  pipeline_ = accepted.getName();
  started(false);
  return {};
}

std::optional<ApiError> Choice::take(schema::Tokens::Reader tokens) {
  if (tokens.getAttempt() != attempt_ || state_ == State::released) return {};
  started(tokens.getFromCache());
  if (tokens.hasFacts()) learn(tokens.getFacts());
  const size_t known = piece_.tokens.size();
  const uint32_t seen = reader_.tokens();
  const auto why = reader_.take(tokens, piece_);
  count(reader_.tokens() - seen);
  if (edge_.outlives_head)
    for (size_t i = known; i < piece_.tokens.size(); ++i) ids_.push_back(piece_.tokens[i].id);
  // A body needs all tokens, the cache too; a stream that is not kept needs only the latest.
  if (!request_.stream || (cacheable() && !hit_))
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
    edge_.metrics.of(model_.id, hit_).first_token_seconds.Observe(seconds(now - began_));
  } else if (!hit_) {
    between_tokens_.add(seconds(now - last_token_) / new_tokens, new_tokens);
  }
  last_token_ = now;
  edge_.metrics.of(model_.id, hit_).completion_tokens.Increment(new_tokens);
}

std::optional<ApiError> Choice::take(schema::Finished::Reader finished) {
  if (finished.getAttempt() != attempt_ || state_ == State::released) return {};
  started(finished.getFromCache());
  if (finished.hasFacts()) learn(finished.getFacts());
  state_ = State::over;
  if (const auto why = reader_.take(finished, piece_)) return broken_answer(*why);
  return {};
}

std::optional<ApiError> Choice::take(schema::Rejected::Reader rejected) {
  if (rejected.getAttempt() != attempt_ || state_ == State::released) return {};
  if (goes_on() && rejected.getReason() != schema::Rejected::Reason::INVALID) {
    await_cluster();
    return {};
  }
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
  started_ = true;
  if (state_ == State::asked) state_ = State::accepted;
  if (from_cache) {
    hit_ = cacheable();
    state_ = State::over;
  }
  if (!std::exchange(counted_, true))
    edge_.metrics.of(model_.id, hit_).prompt_tokens.Increment(static_cast<double>(prompt_tokens_));
}

void Choice::learn(schema::RequestFacts::Reader facts) {
  const Facts& before = facts_before_;
  // Of the prompt counts what the first attempt found: what a later one finds again, it computed itself.
  facts_ = {attempt_ == 0 ? facts.getCachedTokens() : before.cached_tokens,
            before.preemptions + facts.getPreemptions(),
            before.queue_ms + facts.getQueueMs(),
            before.prefill_ms + facts.getPrefillMs(),
            before.decode_ms + facts.getDecodeMs(),
            before.preempted_ms + facts.getPreemptedMs()};
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
  if (before != State::over) edge_.reach->cancel(edge_.options.node, number_, pipeline_);
}

void Choice::settle() {
  if (state_ == State::released) return;
  if (state_ == State::accepted && first_token_)  // a stop string ended it: the cluster has not said
    facts_.decode_ms = static_cast<uint32_t>(
        std::chrono::duration_cast<std::chrono::milliseconds>(last_token_ - *first_token_).count());
  between_tokens_.observe(edge_.metrics.between_tokens_seconds);
  edge_.metrics.of(model_.id, hit_).request_seconds.Observe(seconds(Clock::now() - began_));
  edge_.metrics.cache(!cacheable() ? "bypass" : hit_ ? "hit" : "miss");
  if (cacheable() && !hit_) store();
  release();
}

/// Only whole answers get here. Up to a stop string if one ended it: replayed, it ends at the same token.
/// What other stages computed a part of is not kept: whoever asks those again gets other bits.
void Choice::store() {
  if (edge_.readiness->variants_revision(model_.id) != cache_key_.variants_revision) return;
  schema::FrameBuilder<schema::Store> store(64 + whole_.tokens.size() * 4);
  store->setCacheKey(data_of(cache_key_.name));
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
  auto kept = std::move(store).finish();
  if (kept.bytes()->size() <= edge_.options.frame_bytes_max) edge_.reach->keep(std::move(kept));
}

}  // namespace convoy::gateway
