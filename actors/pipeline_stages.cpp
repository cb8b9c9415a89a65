#include <algorithm>
#include <cassert>
#include <limits>

#include "actors/pipeline_impl.hpp"
#include "actors/process/log.hpp"

namespace convoy::actors {

namespace {

using std::chrono::milliseconds;

/// Links say why in words; anything else is rendered by CAF.
std::string reason_of(const caf::error& reason, const caf::actor_system& system) {
  if (!reason) return "it ended";  // a none error has no context to look into
  const auto& context = reason.context();
  if (!context.empty() && context.match_elements<std::string>()) return context.get_as<std::string>(0);
  return system.render(reason);
}

}  // namespace

uint64_t unix_ms() {
  return static_cast<uint64_t>(
      std::chrono::duration_cast<milliseconds>(std::chrono::system_clock::now().time_since_epoch()).count());
}

// ---- stages ----

void PipelineData::stage_up(const StageUp& up) {
  const uint32_t index = up.peer.instance;
  if (index >= handles.size()) {
    log::warn_limited("pipeline.unknown_stage", {{"instance", index}, {"stages", handles.size()}});
    return peers.drop(up.peer, "this cluster has only " + std::to_string(handles.size()) + " stages");
  }
  if (handles[index]) give_up(index, StageLoss::replaced, "a newer process is there");
  handles[index] = up.stage;
  self->monitor(up.stage);
  log::info("pipeline.stage_up", {{"stage", index}, {"node", up.peer.node}, {"pid", up.peer.pid}});
  stages.join(up.peer, self->clock().now());
  publish();
}

void PipelineData::raise_epoch() {
  const uint64_t epoch = stages.raise(self->clock().now());
  epochs_total->Increment();
  publish();  // before any request fails, as in give_up
  begin_epoch();
  const auto count = static_cast<uint32_t>(handles.size());
  for (uint32_t i = 0; i < count; ++i) {
    msg::FrameBuilder<msg::Assign> assign;
    assign->setEpoch(epoch);
    assign->setFirstLayer(static_cast<uint32_t>(options.layers[i].first));
    assign->setLastLayer(static_cast<uint32_t>(options.layers[i].last));
    assign->setKvBlocks(options.limits.kv_blocks);
    assign->setKvBlocksBefore(stages.kv_blocks_before());
    assign->setSlots(options.limits.slots());
    if (count > 1) {
      const PeerIdentity& next = stages.stages()[(i + 1) % count].peer;
      // Of two stages each is the other's next: one connects.
      if (count > 2 || i == 0) assign->setNextHost(next.listen_host);
      assign->setNextPort(next.listen_port);
      assign->setNextInstance(next.instance);
    }
    self->send(handles[i], std::move(assign).finish());
  }
  log::info("pipeline.epoch", {{"epoch", epoch}});
}

void PipelineData::report(const Frame<msg::StageReport>& frame) {
  const msg::Reading r(frame);
  const uint32_t index = r->getInstance();
  if (index >= handles.size() || !handles[index] || !from(handles[index], "StageReport")) return;
  const StageSet::Report report{.epoch = r->getEpoch(),
                                .health = r->getHealth(),
                                .loaded_permille = r->getLoadedPermille(),
                                .step_age_ms = r->getOldestStepAgeMs(),
                                .reason = r->getReason(),
                                .cost = {r->getStepFixedUs(), r->getStepPerRowUs()},
                                .kv_blocks = r->getKvBlocks(),
                                .kv_places = r->getKvPlaces(),
                                .busy_us = r->getBusyUs(),
                                .clock_us = r->getClockUs()};
  const bool was_slow = stages.stages()[index].slow;
  const StageSet::Consequence consequence = stages.report(index, report, self->clock().now());
  if (stages.stages()[index].slow && !was_slow) {
    log::warn("pipeline.stage_slow", {{"stage", index}, {"step_ms", report.step_age_ms}});
    slow_total->Increment();
  }
  switch (consequence) {
    case StageSet::Consequence::none:
      break;
    case StageSet::Consequence::changed:
      return publish();
    case StageSet::Consequence::lost:
      return give_up(index, StageLoss::failed, report.reason);
    case StageSet::Consequence::raise:
      return raise_epoch();
    case StageSet::Consequence::serve:
      size_memory();
      has_served = true;
      scheduler.request_canary();
      pump();
      return publish();
  }
  scheduler.set_step_cost(stages.slowest(), stages.on_own_cards() ? split_gain_min_apart : split_gain_min);
}

/// As much as the smallest stage has, where the configuration does not say how much that is.
void PipelineData::size_memory() {
  const uint32_t fit = options.limits.kv_blocks == 0 ? stages.kv_blocks() : options.limits.kv_blocks;
  const uint32_t places = stages.kv_places();
  const auto log = [](const char* event, uint32_t blocks) {
    log::info(event, {{"blocks", blocks}, {"tokens", blocks * gpu::kv_block_tokens}});
  };
  if (options.limits.kv_blocks == 0) log("pipeline.kv_blocks", fit);
  if (places > 0) log("pipeline.kv_places", places);
  lose(scheduler.set_kv_blocks(fit, places, now()));
  flights.clear();
}

void PipelineData::stage_down(const caf::down_msg& down) {
  for (uint32_t i = 0; i < handles.size(); ++i)
    if (handles[i] && handles[i].address() == down.source) {
      const std::string why = reason_of(down.reason, self->system());
      const auto process =
          peers.process_state ? peers.process_state(stages.stages()[i].peer) : ProcessState::unknown;
      return give_up(i, loss_of_link(why, process), why);
    }
}

/// No request is lost by it, but those that may be why: what ran goes on when the stages serve again.
void PipelineData::begin_epoch() {
  const Scheduler::EpochEnd end = scheduler.begin_epoch(now());
  flights.clear();
  for (const SequenceId id : end.suspects) {
    const Request& r = requests.at(id);
    log::info("request.replayed", {{"request", r.id}, {"tokens", r.tokens}});
  }
  lose(end.lost);
}

void PipelineData::lose(const std::vector<Scheduler::Lost>& lost) {
  for (const auto& [id, why] : lost) fail(id, why);
}

/// A stage is lost, and with it what it held of all sequences.
void PipelineData::give_up(uint32_t index, StageLoss loss, const std::string& why) {
  if (!handles[index]) return;
  const PeerIdentity peer = stages.stages()[index].peer;
  log::warn("pipeline.stage_lost",
            {{"stage", index}, {"pid", peer.pid}, {"cause", name_of(loss)}, {"reason", why}});
  lost_total.at(loss)->Increment();
  self->demonitor(handles[index].address());
  handles[index] = nullptr;
  const bool is_gone = loss == StageLoss::ended || loss == StageLoss::failed || loss == StageLoss::replaced;
  stages.lose(index, is_gone ? msg::Health::DOWN : msg::Health::HUNG, std::string(name_of(loss)) + ": " + why,
              self->clock().now());
  peers.drop(peer, why);
  publish();  // before any request fails: who hears of a failure finds /readyz to agree
  begin_epoch();
  if (loss != StageLoss::replaced) ask_to_replace(index, peer.incarnation, why);
}

void PipelineData::ask_to_replace(uint32_t index, uint64_t incarnation, const std::string& why) {
  stages.asked(index, self->clock().now());
  msg::FrameBuilder<msg::ReplaceStage> frame;
  frame->setInstance(index);
  frame->setIncarnation(incarnation);
  frame->setReason(why);
  self->send(peers.node, std::move(frame).finish());
}

// ---- time and health ----

void PipelineData::publish() {
  const auto now = self->clock().now();
  last_published = now;
  const bool ready = stages.ready(now, scheduler.in_flight() > 0);
  msg::FrameBuilder<msg::PipelineState> frame(256);
  frame->setPipeline(options.instance);
  frame->setReady(ready);
  frame->setAccepting(has_served);
  const auto overloaded = overload();
  said_overloaded = overloaded.has_value();
  frame->setOverloaded(said_overloaded);
  if (said_overloaded) frame->setRetryAfterMs(retry_after_ms());
  if (!ready)
    frame->setReason(stages.why_not_ready());
  else if (overloaded)
    frame->setReason(*overloaded);
  frame->setEpoch(stages.epoch());
  frame->setRunning(static_cast<uint32_t>(scheduler.running()));
  frame->setWaiting(static_cast<uint32_t>(scheduler.waiting()));
  frame->setKvBlocksUsed(scheduler.kv_blocks_used());
  frame->setKvBlocksTotal(scheduler.limits().kv_blocks);
  frame->setStepsInFlight(static_cast<uint32_t>(scheduler.in_flight()));
  frame->setMicroBatches(static_cast<uint32_t>(scheduler.micro_batches_in_flight()));
  frame->setRowsPerStep(scheduler.rows_per_step());
  frame->setWaitEstimateMs(
      static_cast<uint32_t>(std::min<int64_t>(wait_ms(), std::numeric_limits<uint32_t>::max())));
  if (scheduler.waiting() > 0)
    frame->setWaitingFor(scheduler.running() >= scheduler.limits().sequences ? msg::WaitingFor::SLOTS
                                                                             : msg::WaitingFor::BLOCKS);
  frame->setCachedBlocks(scheduler.kv_cache().published());
  const SchedulerCounters& counted = scheduler.counters();
  auto counters = frame->initCounters();
  counters.setPromptTokens(counted.prompt_tokens);
  counters.setCachedTokens(counted.cached_tokens);
  counters.setPreemptions(counted.preemptions);
  counters.setDraftedTokens(counted.drafted_tokens);
  counters.setAcceptedTokens(counted.accepted_tokens);
  counters.setSavedBlocks(counted.saved_blocks);
  counters.setLoadedBlocks(counted.loaded_blocks);
  const auto count = static_cast<uint32_t>(handles.size());
  auto list = frame->initStages(count);
  for (uint32_t i = 0; i < count; ++i) {
    const StageSet::Stage& stage = stages.stages()[i];
    list[i].setNode(stage.peer.node);
    list[i].setInstance(i);
    list[i].setPid(stage.peer.pid);
    list[i].setFirstLayer(static_cast<uint32_t>(options.layers[i].first));
    list[i].setLastLayer(static_cast<uint32_t>(options.layers[i].last));
    list[i].setHealth(stage.health);
    list[i].setReason(stage.reason);
    list[i].setLoadedPermille(stage.loaded_permille);
    list[i].setRestarts(stage.restarts);
    list[i].setKernelVariant(stage.peer.kernel_variant);
    list[i].setDevice(stage.peer.device);
    list[i].setBubbleRatio(stage.bubble_ratio);
  }
  const auto state = std::move(frame).finish();
  self->send(peers.gateway, state);
  self->send(peers.router, state);
  self->send(peers.node, state);
}

void PipelineData::tick() {
  const uint64_t wall_ms = peers.wall_clock_ms();
  while (!deadlines.empty() && deadlines.begin()->first < wall_ms)
    fail(deadlines.begin()->second, "the request's deadline passed (gateway.request_timeout_ms)");

  const auto now = self->clock().now();
  const StageSet::Due due = stages.due(now, scheduler.in_flight() > 0);
  for (const auto& lost : due.lost) give_up(lost.index, lost.loss, lost.reason);
  for (const auto& r : due.replacements) ask_to_replace(r.index, r.incarnation, r.reason);
  if (due.canary) {
    scheduler.request_canary();
    pump();
  }
  if (now - last_published >= milliseconds(options.readiness_period_ms) / 4) publish();
}

}  // namespace convoy::actors
