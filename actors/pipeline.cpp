#include <prometheus/registry.h>

#include <algorithm>

#include "actors/pipeline_impl.hpp"
#include "actors/process/log.hpp"
#include "actors/process/time_buckets.hpp"
#include "actors/stage/step_codec.hpp"

namespace convoy::actors {

namespace {

using std::chrono::milliseconds;

SchedulerLimits limits_of(SchedulerLimits limits, const std::vector<PlannedStage>& plan) {
  limits.stages = static_cast<uint32_t>(plan.size());
  return limits;
}

}  // namespace

PipelineData::PipelineData(PipelineActor::stateful_pointer<PipelineStateHolder> actor, PipelineOptions o,
                           PipelinePeers p)
    : self(actor),
      options(std::move(o)),
      peers(std::move(p)),
      members(options.members),
      plan(plan_of(members, options.costs)),
      scheduler(limits_of(options.limits, plan), options.kv_secret),
      stages({.stage_threads = options.stage_threads,
              .step_timeout_ms = options.step_timeout_ms,
              .readiness_period_ms = options.readiness_period_ms,
              .load_timeout_ms = options.load_timeout_ms,
              .ask_again_ms = options.failure_detection_ms},
             names_of(plan), self->clock().now()) {
  const prometheus::Labels own{{"pipeline", options.name}, {"model", options.model}};
  const auto with = [&own](const char* name, std::string value) {
    prometheus::Labels labels = own;
    labels.emplace(name, std::move(value));
    return labels;
  };
  auto& steps =
      prometheus::BuildCounter().Name("convoy_steps_total").Help("Steps committed").Register(*peers.metrics);
  steps_total = &steps.Add(own);
  auto& epochs = prometheus::BuildCounter()
                     .Name("convoy_epochs_total")
                     .Help("Times the plan was raised")
                     .Register(*peers.metrics);
  epochs_total = &epochs.Add(own);
  auto& cancels = prometheus::BuildCounter()
                      .Name("convoy_cancelled_total")
                      .Help("Requests cancelled")
                      .Register(*peers.metrics);
  cancelled_total = &cancels.Add(own);
  auto& admitted = prometheus::BuildCounter()
                       .Name("convoy_requests_admitted_total")
                       .Help("Sequences that the pipeline took")
                       .Register(*peers.metrics);
  admitted_total = &admitted.Add(own);
  auto& rejected = prometheus::BuildCounter()
                       .Name("convoy_requests_overload_rejected_total")
                       .Help("Sequences that the pipeline rejected because it was overloaded")
                       .Register(*peers.metrics);
  rejected_total = &rejected.Add(own);
  auto& generated = prometheus::BuildCounter()
                        .Name("convoy_tokens_generated_total")
                        .Help("Tokens that the pipeline computed for requests")
                        .Register(*peers.metrics);
  generated_total = &generated.Add(own);
  auto& lost = prometheus::BuildCounter()
                   .Name("convoy_stages_lost_total")
                   .Help("Stages that were given up, by what was wrong with them")
                   .Register(*peers.metrics);
  for (const StageLoss loss : stage_losses)
    lost_total[loss] = &lost.Add(with("cause", std::string(name_of(loss))));
  auto& slow = prometheus::BuildCounter()
                   .Name("convoy_stage_slow_steps_total")
                   .Help("Steps that a stage computed for longer than a quarter of step_timeout_ms")
                   .Register(*peers.metrics);
  slow_total = &slow.Add(own);
  auto& rebalances = prometheus::BuildCounter()
                         .Name("convoy_rebalanced_total")
                         .Help("Times that layers moved because stages are not equally fast")
                         .Register(*peers.metrics);
  rebalanced_total = &rebalances.Add(own);
  auto& seconds = prometheus::BuildHistogram()
                      .Name("convoy_step_seconds")
                      .Help(
                          "Steps with rows of prompts, of decodes or both: from when the stages had it and "
                          "none before it to its result")
                      .Register(*peers.metrics);
  prefill_seconds = &seconds.Add(with("kind", "prefill"), time_buckets_s());
  decode_seconds = &seconds.Add(with("kind", "decode"), time_buckets_s());
  mixed_seconds = &seconds.Add(with("kind", "mixed"), time_buckets_s());
}

void PipelineData::generate(const Frame<msg::Generate>& frame) {
  const msg::Reading request(frame);
  const RequestName name{request->getReplyTo().getNode().cStr(), request->getReplyTo().getRequest()};
  if (!gateways.contains(name.first))  // its link ended meanwhile: if it lives, it asks again
    return log::warn_limited("pipeline.unknown_gateway", {{"node", name.first}});
  if (const auto before = by_name.find(name); before != by_name.end()) {
    if (requests.at(before->second).attempt >= request->getAttempt())
      return;  // this one, or a later one, runs
    scheduler.cancel(before->second);
    forget(before->second);
  }
  if (!has_served) return reject(*request, msg::Rejected::Reason::NOT_READY, stages.why_not_ready());
  NewSequence sequence;
  for (const int32_t id : request->getTokens()) sequence.prompt.push_back(id);
  for (const int32_t id : request->getGenerated()) sequence.generated.push_back(id);
  sequence.sampling = decode(request->getSampling());
  sequence.max_tokens = request->getMaxTokens();
  sequence.tenant = request->getTenant();
  sequence.salt = request->getSalt();
  sequence.priority = request->getPriority();
  sequence.drafts = request->getDrafts();
  if (const auto why = scheduler.refuse(sequence))
    return reject(*request, msg::Rejected::Reason::INVALID, *why);
  if (const auto why = overload()) {
    rejected_total->Increment();
    return reject(*request, msg::Rejected::Reason::OVERLOADED, *why);
  }

  const auto generated = static_cast<uint32_t>(sequence.generated.size());
  const SequenceId id = scheduler.admit(std::move(sequence), now());
  admitted_total->Increment();
  requests.emplace(id, Request{name, request->getAttempt(), request->getDeadlineMs(), request->getRequestId(),
                               generated, generated});
  by_name[name] = id;
  if (request->getDeadlineMs() != 0) deadlines.emplace(request->getDeadlineMs(), id);
  accept(requests.at(id));
  pump();
  publish_overload();
}

/// How long one more request would wait until it begins, as far as anybody can tell.
int64_t PipelineData::wait_ms() const {
  return std::chrono::duration_cast<milliseconds>(scheduler.wait_estimate()).count();
}

/// Why one more request cannot be taken, or nothing.
std::optional<std::string> PipelineData::overload() const {
  if (scheduler.full())
    return std::to_string(scheduler.running()) + " requests are running and " +
           std::to_string(scheduler.waiting()) + " are waiting (pipeline.sequences_max, pipeline.queue_max)";
  if (wait_ms() <= options.queue_max_ms) return std::nullopt;
  return "one more would wait about " + std::to_string(wait_ms()) + " ms (pipeline.queue_max_ms)";
}

/// Until what waits now has begun, but for what one more may wait for.
uint32_t PipelineData::retry_after_ms() const {
  constexpr int64_t least_ms = 1000, most_ms = 60'000;
  return static_cast<uint32_t>(std::clamp(wait_ms() - int64_t{options.queue_max_ms}, least_ms, most_ms));
}

/// The gateway need not ask to be rejected, nor reject what could be taken.
void PipelineData::publish_overload() {
  if (overload().has_value() != said_overloaded) publish();
}

void PipelineData::cancel(const RequestName& name) {
  const auto found = by_name.find(name);
  if (found == by_name.end()) return;  // finished meanwhile, or never ours
  cancelled_total->Increment();
  scheduler.cancel(found->second);
  forget(found->second);
  pump();
  publish_overload();
}

void PipelineData::forget(SequenceId id) {
  const Request& request = requests.at(id);
  by_name.erase(request.name);
  deadlines.erase({request.deadline_ms, id});
  requests.erase(id);
}

void PipelineData::pump() {
  if (stages.phase() != Phase::serving) return;
  const bool idle = scheduler.in_flight() == 0;
  const StageActor first = handle(0);
  while (auto step = scheduler.plan(now())) {
    step->epoch = stages.epoch();
    flights.push_back({seconds_of(*step), self->clock().now()});
    self->send(first, encode(*step));
  }
  if (idle) stages.sent_first(self->clock().now());
}

/// A decode samples behind each of its rows, a chunk of a prompt behind its last at most.
prometheus::Histogram* PipelineData::seconds_of(const gpu::StepPlan& plan) const {
  bool decodes = false, prompts = false;
  for (const gpu::SeqStep& s : plan.sequences) (s.sampled_rows == s.tokens.size() ? decodes : prompts) = true;
  return decodes && prompts ? mixed_seconds : decodes ? decode_seconds : prefill_seconds;
}

/// The oldest step in flight came back. Waiting behind another one is no part of what it took.
void PipelineData::measure(bool requests) {
  const auto now = self->clock().now();
  const Flight flight = flights.front();
  flights.pop_front();
  if (requests)
    flight.seconds->Observe(std::chrono::duration<double>(now - std::max(flight.sent, last_commit)).count());
  last_commit = now;
}

bool PipelineData::from(const StageActor& handle, const char* what) const {
  if (handle && self->current_sender() == caf::actor_cast<caf::strong_actor_ptr>(handle)) return true;
  log::warn_limited("pipeline.not_from_its_stage", {{"message", what}});
  return false;
}

void PipelineData::commit(const Frame<msg::StepResult>& frame) {
  const auto last = static_cast<uint32_t>(plan.size()) - 1;
  if (!from(handle(last), "StepResult")) return;
  std::vector<Progress> progress;
  try {
    gpu::StepResult result = decode(frame);
    if (result.epoch != stages.epoch() || stages.phase() != Phase::serving) return;  // of one that is over
    progress = scheduler.commit(std::move(result), now());
  } catch (
      const std::exception& e) {  // the last stage's bytes are wrong: it cannot be trusted with the next step
    return give_up(last, StageLoss::failed, e.what());
  } catch (const kj::Exception& e) {
    return give_up(last, StageLoss::failed, e.getDescription().cStr());
  }
  steps_total->Increment();
  ++plan_steps;
  const auto canary = std::find_if(progress.begin(), progress.end(), [](const auto& p) { return p.canary; });
  measure(canary == progress.end() || progress.size() > 1);
  const bool failed = canary != progress.end() && canary->finish == FinishReason::failed;
  const bool first = stages.committed(self->clock().now());
  // Plan first: the stages compute while the tokens travel to their readers.
  pump();
  deliver(progress);
  publish_overload();
  if (failed) {
    stages.canary_failed(explain(canary->fault));
    log::warn_limited("pipeline.canary_failed",
                      {{"pipeline", options.name}, {"reason", explain(canary->fault)}});
    publish();
  } else if (first) {
    log::info("pipeline.ready",
              {{"pipeline", options.name}, {"epoch", stages.epoch()}, {"stages", plan.size()}});
    publish();
  }
  if (plan_steps == options.rebalance_steps)
    rebalance();
  else if (plan_steps % options.rebalance_steps == 0)
    learn_speeds();  // the router weighs replicas by them, and machines get busier
}

PipelineStateHolder::PipelineStateHolder() = default;
PipelineStateHolder::~PipelineStateHolder() = default;

PipelineActor::behavior_type pipeline(PipelineActor::stateful_pointer<PipelineStateHolder> self,
                                      PipelineOptions options, PipelinePeers peers) {
  self->state.data = std::make_unique<PipelineData>(self, std::move(options), std::move(peers));
  PipelineData* data = self->state.data.get();
  self->set_down_handler([data](caf::down_msg& down) {
    if (!data->gateway_down(down)) data->stage_down(down);
  });
  const auto interval = milliseconds(std::clamp<uint32_t>(data->options.readiness_period_ms / 8, 5, 100));
  self->delayed_send(self, interval, caf::tick_atom_v);
  return {
      [data](const Frame<msg::Generate>& frame) { data->generate(frame); },
      [data](const Frame<msg::Cancel>& frame) {
        const msg::Reading cancel(frame);
        data->cancel({cancel->getReplyTo().getNode().cStr(), cancel->getReplyTo().getRequest()});
      },
      [data](const Frame<msg::StepResult>& frame) { data->commit(frame); },
      [data](const Frame<msg::StageReport>& frame) { data->report(frame); },
      [data](const StageUp& up) { data->stage_up(up); },
      [data](const GatewayUp& up) { data->gateway_up(up); },
      [data](const Frame<msg::MemberCommand>& frame) { data->member_command(frame); },
      [data](const AddNode& add) { add.refused->set_value(data->change_members(add.command)); },
      [data, self, interval](caf::tick_atom) {
        data->tick();
        self->delayed_send(self, interval, caf::tick_atom_v);
      },
  };
}

}  // namespace convoy::actors
