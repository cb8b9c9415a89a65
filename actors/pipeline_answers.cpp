// Pipeline: what its gateways hear, and that one of them comes or goes.

#include <algorithm>

#include "actors/pipeline_impl.hpp"
#include "actors/process/log.hpp"
#include "actors/stage/step_codec.hpp"

namespace convoy::actors {

namespace {

using std::chrono::milliseconds;

/// What a client hears when its answer cannot go on.
void encode_failure(const PipelineData::Request& request, const std::string& why, msg::Finished::Builder to) {
  log::warn("request.failed", {{"request", request.id}, {"tokens", request.tokens}, {"reason", why}});
  to.setRequest(request.name.second);
  to.setAttempt(request.attempt);
  to.setReason(msg::Finished::Reason::FAILED);
  to.setTokens(request.tokens);
  to.setMessage(why);
}

void encode(const SequenceFacts& facts, msg::RequestFacts::Builder to) {
  const auto ms = [](std::chrono::microseconds time) {
    return static_cast<uint32_t>(std::chrono::duration_cast<milliseconds>(time).count());
  };
  to.setCachedTokens(facts.cached_tokens);
  to.setPreemptions(facts.preemptions);
  to.setQueueMs(ms(facts.times.queued));
  to.setPrefillMs(ms(facts.times.prefill));
  to.setDecodeMs(ms(facts.times.decode));
  to.setPreemptedMs(ms(facts.times.preempted));
}

}  // namespace

std::string explain(gpu::RowFault fault) {
  return fault == gpu::RowFault::all_masked
             ? "every token is masked: there are more end tokens than min_tokens leaves others"
             : "the model gave a logit that is infinite or not a number";
}

template <class T>
void PipelineData::answer(const std::string& node, Frame<T> frame) const {
  if (const auto gateway = gateways.find(node); gateway != gateways.end())
    self->send(gateway->second, std::move(frame));
}

/// Another process of that node, or a link anew: what the one before asked for, this one asks for again.
void PipelineData::gateway_up(const GatewayUp& up) {
  if (const auto before = gateways.find(up.node); before != gateways.end()) {
    self->demonitor(before->second.address());
    forget_all_of(up.node);
  }
  gateways[up.node] = up.gateway;
  self->monitor(up.gateway);
  log::info("pipeline.gateway_up", {{"node", up.node}});
  publish();
}

bool PipelineData::gateway_down(const caf::down_msg& down) {
  const auto lost = std::ranges::find_if(
      gateways, [&](const auto& entry) { return entry.second.address() == down.source; });
  if (lost == gateways.end()) return false;
  const std::string node = lost->first;
  log::warn("pipeline.gateway_lost", {{"node", node}});
  gateways.erase(lost);
  forget_all_of(node);
  pump();
  publish_overload();
  return true;
}

void PipelineData::forget_all_of(const std::string& node) {
  const auto first = by_name.lower_bound({node, 0});
  std::vector<SequenceId> lost;
  for (auto at = first; at != by_name.end() && at->first.first == node; ++at) lost.push_back(at->second);
  for (const SequenceId id : lost) {
    scheduler.cancel(id);
    forget(id);
  }
}

void PipelineData::accept(const Request& request) const {
  msg::FrameBuilder<msg::Accepted> accepted;
  accepted->setRequest(request.name.second);
  accepted->setAttempt(request.attempt);
  accepted->setName(options.name);
  accepted->setIncarnation(options.incarnation);
  answer(request.name.first, std::move(accepted).finish());
}

void PipelineData::reject(const msg::Generate::Reader& request, msg::Rejected::Reason reason,
                          const std::string& why) {
  msg::FrameBuilder<msg::Rejected> frame;
  frame->setRequest(request.getReplyTo().getRequest());
  frame->setAttempt(request.getAttempt());
  frame->setReason(reason);
  frame->setMessage(why);
  frame->setRetryAfterMs(retry_after_ms());
  answer(request.getReplyTo().getNode().cStr(), std::move(frame).finish());
}

void PipelineData::fail(SequenceId id, const std::string& why) {
  msg::FrameBuilder<msg::Finished> frame;
  encode_failure(requests.at(id), why, *frame);
  answer(requests.at(id).name.first, std::move(frame).finish());
  scheduler.cancel(id);
  forget(id);
}

void PipelineData::deliver(const std::vector<Progress>& progress) {
  for (const auto& [node, gateway] : gateways) deliver_to(node, progress);
  for (const Progress& p : progress)
    if (!p.canary && p.finish != FinishReason::none) forget(p.id);
}

/// One frame for all of a gateway's: what a step costs beside its stages must not grow with its requests.
void PipelineData::deliver_to(const std::string& node, const std::vector<Progress>& progress) {
  const auto is_of_another = [&](const Progress& p) {
    return p.canary || requests.at(p.id).name.first != node;
  };
  unsigned answers = 0, ends = 0;
  for (const Progress& p : progress) {
    if (is_of_another(p)) continue;
    answers += !p.tokens.empty();
    ends += p.finish != FinishReason::none;
  }
  if (answers + ends == 0) return;
  constexpr size_t words = 64, words_each = 24;  // about
  msg::FrameBuilder<msg::StepTokens> frame(words + words_each * (answers + ends));
  auto to_answers = frame->initAnswers(answers);
  auto to_ends = frame->initFinished(ends);
  answers = ends = 0;
  for (const Progress& p : progress) {
    if (is_of_another(p)) continue;
    Request& r = requests.at(p.id);
    if (!p.tokens.empty()) add_answer(p, r, to_answers[answers++]);
    if (p.finish == FinishReason::none) continue;
    add_end(p, r, to_ends[ends++]);
  }
  answer(node, std::move(frame).finish());
}

void PipelineData::add_answer(const Progress& p, Request& r, msg::Tokens::Builder to) const {
  to.setRequest(r.name.second);
  to.setAttempt(r.attempt);
  to.setFirstIndex(p.first_index);
  auto tokens = to.initTokens(static_cast<unsigned>(p.tokens.size()));
  for (unsigned i = 0; i < p.tokens.size(); ++i) encode(p.tokens[i], tokens[i]);
  if (p.first_index == r.generated) encode(p.facts, to.initFacts());
  r.tokens += static_cast<uint32_t>(p.tokens.size());
  generated_total->Increment(static_cast<double>(p.tokens.size()));
}

void PipelineData::add_end(const Progress& p, const Request& r, msg::Finished::Builder to) const {
  if (p.finish == FinishReason::failed) return encode_failure(r, explain(p.fault), to);
  to.setRequest(r.name.second);
  to.setAttempt(r.attempt);
  to.setReason(p.finish == FinishReason::stop ? msg::Finished::Reason::STOP : msg::Finished::Reason::LENGTH);
  to.setTokens(r.tokens);
  encode(p.facts, to.initFacts());
}

}  // namespace convoy::actors
