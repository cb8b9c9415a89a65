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

StageActor PipelineData::handle(size_t index) const {
  const auto found = handles.find(stages.stage(static_cast<uint32_t>(index)).name);
  return found == handles.end() ? StageActor{} : found->second;
}

/// Which stage sent what is handled now.
std::optional<uint32_t> PipelineData::sender() const {
  for (const auto& [name, stage] : handles)
    if (self->current_sender() == caf::actor_cast<caf::strong_actor_ptr>(stage)) return stages.find(name);
  return std::nullopt;
}

void PipelineData::stage_up(const StageUp& up) {
  const StageName name = stage_name(up.peer);
  const Member* const member = members.find(name.node);
  if (!member || name.instance >= member->stages) {
    log::warn_limited("pipeline.unknown_stage",
                      {{"pipeline", options.name}, {"node", name.node}, {"stage", name.instance}});
    return peers.drop(up.peer, "pipeline " + options.name + " has no " + text_of(name));
  }
  if (handles.contains(name)) give_up(*stages.find(name), StageLoss::replaced, "a newer process is there");
  handles[name] = up.stage;
  prepared.erase(name);  // another process was told
  self->monitor(up.stage);
  log::info(
      "pipeline.stage_up",
      {{"pipeline", options.name}, {"stage", name.instance}, {"node", name.node}, {"pid", up.peer.pid}});
  stages.join(up.peer, self->clock().now());
  publish();
}

void PipelineData::raise_epoch(Scheduler::EpochCause cause) {
  const uint64_t epoch = stages.raise(self->clock().now());
  epochs_total->Increment();
  publish();  // before any request fails, as in give_up
  begin_epoch(cause);
  const auto count = static_cast<uint32_t>(plan.size());
  for (uint32_t i = 0; i < count; ++i) {
    msg::FrameBuilder<msg::Assign> assign;
    assign->setPipeline(options.name);
    assign->setIncarnation(options.incarnation);
    assign->setEpoch(epoch);
    assign->setPosition(i);
    assign->setFirstLayer(static_cast<uint32_t>(plan[i].layers.first));
    assign->setLastLayer(static_cast<uint32_t>(plan[i].layers.last));
    assign->setKvBlocks(options.limits.kv_blocks);
    assign->setKvBlocksBefore(stages.kv_blocks_before());
    assign->setSlots(options.limits.slots());
    assign->setStepsInFlight(scheduler.limits().steps_in_flight());
    if (count > 1) {
      const PeerIdentity& next = stages.stages()[(i + 1) % count].peer;
      // Of two stages each is the other's next: one connects.
      if (count > 2 || i == 0) assign->setNextHost(next.listen_host);
      assign->setNextPort(next.listen_port);
      assign->setNextNode(next.node);
      assign->setNextInstance(next.instance);
    }
    self->send(handle(i), std::move(assign).finish());
  }
  log::info("pipeline.epoch", {{"pipeline", options.name}, {"epoch", epoch}});
}

void PipelineData::report(const Frame<msg::StageReport>& frame) {
  const msg::Reading r(frame);
  const auto from_stage = sender();
  const bool of_another = r->getPipeline().size() > 0 && r->getPipeline() != options.name.c_str();
  if (!from_stage || of_another || stages.stage(*from_stage).name.instance != r->getInstance())
    return log::warn_limited("pipeline.not_from_its_stage", {{"message", "StageReport"}});
  const uint32_t index = *from_stage;
  const StageSet::Report report{
      .epoch = r->getEpoch(),
      .health = r->getHealth(),
      .loaded_permille = r->getLoadedPermille(),
      .step_age_ms = r->getOldestStepAgeMs(),
      .reason = r->getReason(),
      .cost = {r->getStepFixedUs(), r->getStepPerRowUs()},
      .kv_blocks = r->getKvBlocks(),
      .kv_places = r->getKvPlaces(),
      .busy_us = r->getBusyUs(),
      .clock_us = r->getClockUs(),
      .lacks_model = r->getLacksModel(),
      .fetched = r->getFetched() ? std::optional(model::LayerRange{r->getFetchedFirst(), r->getFetchedLast()})
                                 : std::nullopt,
      .fetch_progress = r->getFetchProgress()};
  const bool more = report.fetched && report.fetched != stages.stage(index).fetched;
  heard(index, report);
  if (more) fetched();  // last: another plan may come of it
}

void PipelineData::heard(uint32_t index, const StageSet::Report& report) {
  const bool was_slow = stages.stage(index).slow;
  const StageSet::Consequence consequence = stages.report(index, report, self->clock().now());
  if (stages.stage(index).slow && !was_slow) {
    log::warn("pipeline.stage_slow",
              {{"pipeline", options.name}, {"stage", index}, {"step_ms", report.step_age_ms}});
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
    case StageSet::Consequence::arrived:
      return arrived(stages.stage(index).name.node);
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
  const auto log = [this](const char* event, uint32_t blocks) {
    log::info(event,
              {{"pipeline", options.name}, {"blocks", blocks}, {"tokens", blocks * gpu::kv_block_tokens}});
  };
  if (options.limits.kv_blocks == 0) log("pipeline.kv_blocks", fit);
  if (places > 0) log("pipeline.kv_places", places);
  lose(scheduler.set_kv_blocks(fit, places, now()));
  flights.clear();
}

void PipelineData::stage_down(const caf::down_msg& down) {
  for (const auto& [name, stage] : handles)
    if (stage.address() == down.source) {
      const uint32_t index = *stages.find(name);
      const std::string why = reason_of(down.reason, self->system());
      const auto process =
          peers.process_state ? peers.process_state(stages.stage(index).peer) : ProcessState::unknown;
      return give_up(index, loss_of_link(why, process), why);
    }
}

/// No request is lost by it, but those that may be why: what ran goes on when the stages serve again.
void PipelineData::begin_epoch(Scheduler::EpochCause cause) {
  const Scheduler::EpochEnd end = scheduler.begin_epoch(now(), cause);
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

/// A stage is lost, and with it what it held of all sequences, if it had a part in the plan.
void PipelineData::give_up(uint32_t index, StageLoss loss, const std::string& why) {
  const PeerIdentity peer = stages.stage(index).peer;
  const auto lost = handles.find(stage_name(peer));
  if (lost == handles.end()) return;
  const bool planned = index < plan.size();
  log::warn(planned ? "pipeline.stage_lost" : "pipeline.stage_left", {{"pipeline", options.name},
                                                                      {"stage", peer.instance},
                                                                      {"node", peer.node},
                                                                      {"pid", peer.pid},
                                                                      {"cause", name_of(loss)},
                                                                      {"reason", why}});
  if (planned) lost_total.at(loss)->Increment();
  self->demonitor(lost->second.address());
  handles.erase(lost);
  const bool is_gone = loss == StageLoss::ended || loss == StageLoss::failed || loss == StageLoss::replaced;
  stages.lose(index, is_gone ? msg::Health::DOWN : msg::Health::HUNG, std::string(name_of(loss)) + ": " + why,
              self->clock().now());
  peers.drop(peer, why);
  publish();       // before any request fails: who hears of a failure finds /readyz to agree
  if (!planned) {  // the node starts again what ended
    if (loss == StageLoss::failed) replace(stage_name(peer), peer.incarnation, why);
    return;
  }
  begin_epoch(may_be_by_a_request(loss) ? Scheduler::EpochCause::maybe_a_request
                                        : Scheduler::EpochCause::no_request);
  if (loss != StageLoss::replaced) ask_to_replace(index, peer.incarnation, why);
}

void PipelineData::ask_to_replace(uint32_t index, uint64_t incarnation, const std::string& why) {
  stages.asked(index, self->clock().now());
  replace(stages.stage(index).name, incarnation, why);
}

void PipelineData::replace(const StageName& name, uint64_t incarnation, const std::string& why) {
  msg::FrameBuilder<msg::ReplaceStage> frame;
  frame->setPipeline(options.name);
  frame->setNode(name.node);
  frame->setInstance(name.instance);
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
  frame->setName(options.name);
  frame->setModel(options.model);
  frame->setIncarnation(options.incarnation);
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
  encode_members(*frame);
  const auto count = static_cast<uint32_t>(plan.size());
  auto list = frame->initStages(count);
  for (uint32_t i = 0; i < count; ++i) {
    const StageSet::Stage& stage = stages.stages()[i];
    list[i].setNode(stage.name.node);
    list[i].setInstance(stage.name.instance);
    list[i].setPid(stage.peer.pid);
    list[i].setFirstLayer(static_cast<uint32_t>(plan[i].layers.first));
    list[i].setLastLayer(static_cast<uint32_t>(plan[i].layers.last));
    list[i].setHealth(stage.health);
    list[i].setReason(stage.reason);
    list[i].setLoadedPermille(stage.loaded_permille);
    list[i].setRestarts(stage.restarts);
    list[i].setKernelVariant(stage.peer.kernel_variant);
    list[i].setDevice(stage.peer.device);
    list[i].setBubbleRatio(stage.bubble_ratio);
    if (const auto us = layer_us.find(stage.name); us != layer_us.end())
      list[i].setLayerUs(static_cast<float>(us->second));
    list[i].setMemoryBytes(stage.peer.memory_bytes);
    list[i].setMachine(stage.peer.machine);
    list[i].setCard(stage.peer.card);
  }
  const auto state = std::move(frame).finish();
  self->send(peers.router, state);  // first: who hears that requests are taken may send some
  self->send(peers.node, state);
  for (const auto& [node, gateway] : gateways) self->send(gateway, state);
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
