#include <algorithm>
#include <cassert>

#include "actors/log.hpp"
#include "actors/pipeline_impl.hpp"

namespace convoy::actors {

namespace {

using std::chrono::milliseconds;

uint64_t unix_ms() {
  return static_cast<uint64_t>(
      std::chrono::duration_cast<milliseconds>(std::chrono::system_clock::now().time_since_epoch()).count());
}

/// Links say why in words; anything else is rendered by CAF.
std::string reason_of(const caf::error& reason, const caf::actor_system& system) {
  if (!reason) return "it ended";  // a none error has no context to look into
  const auto& context = reason.context();
  if (!context.empty() && context.match_elements<std::string>()) return context.get_as<std::string>(0);
  return system.render(reason);
}

}  // namespace

std::pair<uint32_t, uint32_t> stage_layers(int64_t layers, uint32_t stages, uint32_t index) {
  assert(stages > 0 && index < stages && layers >= stages);
  const uint32_t each = static_cast<uint32_t>(layers) / stages, more = static_cast<uint32_t>(layers) % stages;
  const uint32_t first = index * each + std::min(index, more);
  return {first, first + each + (index < more ? 1 : 0) - 1};
}

// ---- stages ----

void PipelineData::stage_up(const StageUp& up) {
  if (up.peer.instance >= stages.size()) {
    log::warn_limited("pipeline.unknown_stage", {{"instance", up.peer.instance}, {"stages", stages.size()}});
    return peers.drop(up.peer, "this cluster has only " + std::to_string(stages.size()) + " stages");
  }
  Stage& stage = stages[up.peer.instance];
  if (stage.handle) give_up(up.peer.instance, msg::Health::DOWN, "replaced by a newer process", false);
  const uint32_t restarts = stage.came ? stage.restarts + 1 : 0;
  stage = Stage{up.peer, up.stage, msg::Health::LOADING, "", 0, 0, true, restarts};
  self->monitor(up.stage);
  log::info("pipeline.stage_up", {{"stage", up.peer.instance}, {"node", up.peer.node}, {"pid", up.peer.pid}});
  if (std::all_of(stages.begin(), stages.end(), [](const Stage& s) { return static_cast<bool>(s.handle); }))
    raise_epoch();
  publish();
}

void PipelineData::raise_epoch() {
  ++epoch;
  epochs_total->Increment();
  phase = Phase::loading;
  loading_since = Clock::now();
  publish();  // before the requests fail, as in give_up
  abandon("the pipeline's plan was raised to epoch " + std::to_string(epoch));
  for (uint32_t i = 0; i < stages.size(); ++i) {
    const auto [first, last] = stage_layers(options.layers, static_cast<uint32_t>(stages.size()), i);
    msg::FrameBuilder<msg::Assign> assign;
    assign->setEpoch(epoch);
    assign->setFirstLayer(first);
    assign->setLastLayer(last);
    assign->setKvBlocks(options.limits.kv_blocks);
    assign->setSlots(options.limits.slots());
    if (stages.size() > 1) {
      const PeerIdentity& next = stages[(i + 1) % stages.size()].peer;
      // Of two stages each is the other's next: one connects.
      if (stages.size() > 2 || i == 0) assign->setNextHost(next.listen_host);
      assign->setNextPort(next.listen_port);
      assign->setNextInstance(next.instance);
    }
    stages[i].health = msg::Health::LOADING;
    self->send(stages[i].handle, std::move(assign).finish());
  }
  log::info("pipeline.epoch", {{"epoch", epoch}});
}

void PipelineData::report(const Frame<msg::StageReport>& frame) {
  const msg::Reading r(frame);
  if (r->getInstance() >= stages.size()) return;
  Stage& stage = stages[r->getInstance()];
  if (!stage.handle || r->getEpoch() != epoch) return;
  stage.oldest_step_age_ms = r->getOldestStepAgeMs();
  stage.loaded_permille = r->getLoadedPermille();
  stage.reason = r->getReason();
  const bool changed = stage.health != r->getHealth();
  stage.health = r->getHealth();
  if (stage.health == msg::Health::DOWN) return give_up(r->getInstance(), msg::Health::DOWN, stage.reason);
  if (phase == Phase::serving && stage.health == msg::Health::LOADING)
    raise_epoch();  // it lost its next stage
  if (phase == Phase::loading && std::all_of(stages.begin(), stages.end(),
                                             [](const Stage& s) { return s.health == msg::Health::READY; })) {
    phase = Phase::serving;
    last_pass = Clock::now();
    scheduler.request_canary();
    pump();
  }
  if (changed || phase == Phase::loading) publish();
}

void PipelineData::stage_down(const caf::down_msg& down) {
  for (uint32_t i = 0; i < stages.size(); ++i)
    if (stages[i].handle && caf::actor_cast<caf::actor_addr>(stages[i].handle) == down.source) {
      const std::string why = reason_of(down.reason, self->system());
      // A closed connection is a dead process; an ended lease is a process that no longer answers.
      return give_up(i, why.find("lease") != std::string::npos ? msg::Health::HUNG : msg::Health::DOWN, why);
    }
}

/// Ends what is running: this version does not resume it.
void PipelineData::abandon(const std::string& why) {
  passed = false;
  while (!requests.empty()) fail(requests.begin()->first, why);
  scheduler.reset();
  sent.clear();
}

/// A stage is lost: what it held cannot go on in this version, so its requests end with an error that is
/// seen.
void PipelineData::give_up(uint32_t index, msg::Health health, const std::string& why, bool replace) {
  Stage& stage = stages[index];
  if (!stage.handle) return;
  log::warn("pipeline.stage_lost", {{"stage", index}, {"pid", stage.peer.pid}, {"reason", why}});
  self->demonitor(stage.handle.address());
  stage.handle = nullptr;
  stage.health = health;
  stage.reason = why;
  peers.drop(stage.peer, why);
  phase = Phase::gathering;
  publish();  // before the requests fail: who hears of a failure finds /readyz to agree
  abandon("stage " + std::to_string(index) + " was lost: " + why);
  if (!replace) return;
  msg::FrameBuilder<msg::ReplaceStage> frame;
  frame->setInstance(index);
  frame->setIncarnation(stage.peer.incarnation);
  frame->setReason(why);
  self->send(peers.node, std::move(frame).finish());
}

// ---- time and health ----

bool PipelineData::ready() const {
  return phase == Phase::serving && passed &&
         Clock::now() - last_pass < milliseconds(options.readiness_period_ms);
}

std::string PipelineData::not_ready_reason() const {
  for (uint32_t i = 0; i < stages.size(); ++i) {
    const std::string name = "stage " + std::to_string(i);
    if (!stages[i].handle) return name + " is not there: " + stages[i].reason;
    if (stages[i].health == msg::Health::LOADING)
      return name + " is loading (" + std::to_string(stages[i].loaded_permille / 10) + " %)";
  }
  return passed ? "no token went through all stages within readiness_period_ms"
                : "no token went through all stages yet";
}

void PipelineData::publish() {
  last_published = Clock::now();
  msg::FrameBuilder<msg::PipelineState> frame(256);
  frame->setPipeline(options.instance);
  frame->setReady(ready());
  frame->setAccepting(phase == Phase::serving);
  if (!ready()) frame->setReason(not_ready_reason());
  frame->setEpoch(epoch);
  frame->setRunning(static_cast<uint32_t>(scheduler.running()));
  frame->setWaiting(static_cast<uint32_t>(scheduler.waiting()));
  const uint32_t blocks = options.limits.kv_blocks;
  frame->setKvBlocksUsed(blocks - scheduler.free_blocks());
  frame->setKvBlocksTotal(blocks);
  auto list = frame->initStages(static_cast<unsigned>(stages.size()));
  for (unsigned i = 0; i < stages.size(); ++i) {
    const auto [first, last] = stage_layers(options.layers, static_cast<uint32_t>(stages.size()), i);
    list[i].setNode(stages[i].peer.node);
    list[i].setInstance(i);
    list[i].setPid(stages[i].peer.pid);
    list[i].setFirstLayer(first);
    list[i].setLastLayer(last);
    list[i].setHealth(stages[i].health);
    list[i].setReason(stages[i].reason);
    list[i].setLoadedPermille(stages[i].loaded_permille);
    list[i].setRestarts(stages[i].restarts);
  }
  const auto state = std::move(frame).finish();
  self->send(peers.gateway, state);
  self->send(peers.router, state);
  self->send(peers.node, state);
}

void PipelineData::tick() {
  const auto now = Clock::now();
  const uint64_t wall_ms = unix_ms();
  std::vector<SequenceId> late;
  for (const auto& [id, r] : requests)
    if (r.deadline_ms != 0 && r.deadline_ms < wall_ms) late.push_back(id);
  for (const SequenceId id : late) fail(id, "the request's deadline passed (gateway.request_timeout_ms)");
  if (phase == Phase::loading && now - loading_since > milliseconds(options.load_timeout_ms)) {
    for (uint32_t i = 0; i < stages.size(); ++i)
      if (stages[i].handle && stages[i].health != msg::Health::READY)
        give_up(i, msg::Health::HUNG, "did not finish loading within pipeline.load_timeout_ms");
  }
  if (phase == Phase::serving && !sent.empty() && now - sent.front() > milliseconds(options.step_timeout_ms))
    give_up(slowest_stage(), msg::Health::HUNG, "owes a step longer than pipeline.step_timeout_ms");
  const auto period = milliseconds(options.readiness_period_ms);
  if (phase == Phase::serving && scheduler.in_flight() == 0 && now - last_pass > period / 2) {
    scheduler.request_canary();
    pump();
  }
  if (now - last_published >= period / 4) publish();
}

/// The first stage that owes the oldest step, by their reports; the last one if none admits it.
uint32_t PipelineData::slowest_stage() const {
  uint32_t slowest = static_cast<uint32_t>(stages.size()) - 1, age = 0;
  for (uint32_t i = 0; i < stages.size(); ++i)
    if (stages[i].oldest_step_age_ms > age) {
      age = stages[i].oldest_step_age_ms;
      slowest = i;
    }
  return slowest;
}

}  // namespace convoy::actors
