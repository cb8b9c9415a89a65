#include "actors/pipeline.hpp"

#include <prometheus/counter.h>
#include <prometheus/registry.h>

#include <algorithm>
#include <cassert>
#include <chrono>
#include <unordered_map>

#include "actors/log.hpp"
#include "actors/step_codec.hpp"

namespace convoy::actors {

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

uint64_t unix_ms() {
  return static_cast<uint64_t>(
      std::chrono::duration_cast<milliseconds>(std::chrono::system_clock::now().time_since_epoch()).count());
}

/// What a client hears when its answer cannot go on.
Frame<msg::Finished> failure(uint64_t request, uint32_t attempt, uint32_t tokens, const std::string& why) {
  msg::FrameBuilder<msg::Finished> frame;
  frame->setRequest(request);
  frame->setAttempt(attempt);
  frame->setReason(msg::Finished::Reason::FAILED);
  frame->setTokens(tokens);
  frame->setMessage(why);
  return std::move(frame).finish();
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

/// The state and decisions of one pipeline actor. Runs only inside its actor.
struct PipelineData {
  struct Stage {
    PeerIdentity peer;
    StageActor handle;  // null: no process is linked
    msg::Health health = msg::Health::DOWN;
    std::string reason = "not started";
    uint32_t loaded_permille = 0;
    uint32_t oldest_step_age_ms = 0;
  };
  struct Request {
    uint64_t number;
    uint32_t attempt;
    uint64_t deadline_ms;
    std::string id;
    uint32_t tokens = 0;  // sent
  };
  enum class Phase : uint8_t { gathering, loading, serving };

  PipelineData(PipelineActor::stateful_pointer<PipelineStateHolder> actor, PipelineOptions o, PipelinePeers p)
      : self(actor),
        options(std::move(o)),
        peers(std::move(p)),
        scheduler(options.limits),
        stages(options.limits.stages) {
    auto& steps = prometheus::BuildCounter()
                      .Name("convoy_steps_total")
                      .Help("Steps committed")
                      .Register(*peers.metrics);
    steps_total = &steps.Add({});
    auto& epochs = prometheus::BuildCounter()
                       .Name("convoy_epochs_total")
                       .Help("Times the plan was raised")
                       .Register(*peers.metrics);
    epochs_total = &epochs.Add({});
    auto& cancels = prometheus::BuildCounter()
                        .Name("convoy_cancelled_total")
                        .Help("Requests cancelled")
                        .Register(*peers.metrics);
    cancelled_total = &cancels.Add({});
  }

  PipelineActor::stateful_pointer<PipelineStateHolder> self;
  PipelineOptions options;
  PipelinePeers peers;
  Scheduler scheduler;
  std::vector<Stage> stages;
  std::unordered_map<SequenceId, Request> requests;
  std::unordered_map<uint64_t, SequenceId> by_number;
  std::deque<Clock::time_point> sent;  // when each step in flight was planned
  Phase phase = Phase::gathering;
  uint64_t epoch = 0;
  Clock::time_point last_pass{}, last_published{}, loading_since{};
  bool passed = false;  // a token went through all stages in this epoch
  prometheus::Counter *steps_total, *epochs_total, *cancelled_total;

  // ---- requests ----

  void reject(const msg::Generate::Reader& request, msg::Rejected::Reason reason, const std::string& why) {
    msg::FrameBuilder<msg::Rejected> frame;
    frame->setRequest(request.getReplyTo().getRequest());
    frame->setAttempt(request.getAttempt());
    frame->setReason(reason);
    frame->setMessage(why);
    frame->setRetryAfterMs(1000);
    self->send(peers.gateway, std::move(frame).finish());
  }

  void generate(const Frame<msg::Generate>& frame) {
    const msg::Reading request(frame);
    if (request->getReplyTo().getNode() != peers.gateway_node.c_str()) {
      log::warn_limited("pipeline.unknown_gateway", {{"node", request->getReplyTo().getNode().cStr()}});
      return;
    }
    if (phase != Phase::serving)
      return reject(*request, msg::Rejected::Reason::NOT_READY, not_ready_reason());
    if (scheduler.queue_full())
      return reject(*request, msg::Rejected::Reason::OVERLOADED,
                    std::to_string(scheduler.waiting()) + " requests are waiting (pipeline.queue_max)");
    NewSequence sequence;
    for (const int32_t id : request->getTokens()) sequence.prompt.push_back(id);
    sequence.sampling = decode(request->getSampling());
    sequence.max_tokens = request->getMaxTokens();
    if (const auto why = scheduler.refuse(sequence))
      return reject(*request, msg::Rejected::Reason::INVALID, *why);

    const SequenceId id = scheduler.admit(std::move(sequence));
    const uint64_t number = request->getReplyTo().getRequest();
    requests.emplace(
        id, Request{number, request->getAttempt(), request->getDeadlineMs(), request->getRequestId()});
    by_number[number] = id;
    msg::FrameBuilder<msg::Accepted> accepted;
    accepted->setRequest(number);
    accepted->setAttempt(request->getAttempt());
    accepted->setPipeline(options.instance);
    self->send(peers.gateway, std::move(accepted).finish());
    pump();
  }

  void cancel(uint64_t number) {
    const auto found = by_number.find(number);
    if (found == by_number.end()) return;  // finished meanwhile
    cancelled_total->Increment();
    scheduler.cancel(found->second);
    forget(found->second);
    pump();
  }

  void forget(SequenceId id) {
    by_number.erase(requests.at(id).number);
    requests.erase(id);
  }

  void fail(SequenceId id, const std::string& why) {
    const Request& r = requests.at(id);
    log::warn("request.failed", {{"request", r.id}, {"tokens", r.tokens}, {"reason", why}});
    self->send(peers.gateway, failure(r.number, r.attempt, r.tokens, why));
    scheduler.cancel(id);
    forget(id);
  }

  void deliver(const Progress& p) {
    Request& r = requests.at(p.id);
    msg::FrameBuilder<msg::Tokens> frame;
    frame->setRequest(r.number);
    frame->setAttempt(r.attempt);
    frame->setFirstIndex(p.first_index);
    auto tokens = frame->initTokens(static_cast<unsigned>(p.tokens.size()));
    for (unsigned i = 0; i < p.tokens.size(); ++i) encode(p.tokens[i], tokens[i]);
    self->send(peers.gateway, std::move(frame).finish());
    r.tokens += static_cast<uint32_t>(p.tokens.size());
    if (p.finish == FinishReason::none) return;
    msg::FrameBuilder<msg::Finished> finished;
    finished->setRequest(r.number);
    finished->setAttempt(r.attempt);
    finished->setReason(p.finish == FinishReason::stop ? msg::Finished::Reason::STOP
                                                       : msg::Finished::Reason::LENGTH);
    finished->setTokens(r.tokens);
    self->send(peers.gateway, std::move(finished).finish());
    forget(p.id);
  }

  // ---- steps ----

  void pump() {
    if (phase != Phase::serving) return;
    while (auto plan = scheduler.plan()) {
      plan->epoch = epoch;
      const Frame<msg::StepPlan> frame = encode(*plan);
      // All stages hear at once, so that later ones are prepared when the hidden states arrive.
      for (Stage& stage : stages) self->send(stage.handle, frame);
      sent.push_back(Clock::now());
    }
  }

  void commit(const Frame<msg::StepResult>& frame) {
    std::vector<Progress> progress;
    try {
      const gpu::StepResult result = decode(frame);
      if (result.epoch != epoch || phase != Phase::serving) return;  // of an epoch that is over
      progress = scheduler.commit(result);
    } catch (const std::exception&
                 e) {  // the last stage's bytes are wrong: it cannot be trusted with the next step
      return give_up(static_cast<uint32_t>(stages.size()) - 1, msg::Health::HUNG, e.what());
    } catch (const kj::Exception& e) {
      return give_up(static_cast<uint32_t>(stages.size()) - 1, msg::Health::HUNG, e.getDescription().cStr());
    }
    sent.pop_front();
    steps_total->Increment();
    last_pass = Clock::now();
    // Plan first: the stages compute while the tokens travel to their readers.
    pump();
    for (const Progress& p : progress) deliver(p);
    if (!passed) {
      passed = true;
      log::info("pipeline.ready", {{"epoch", epoch}, {"stages", stages.size()}});
      publish();
    }
  }

  // ---- stages ----

  void stage_up(const StageUp& up) {
    if (up.peer.instance >= stages.size()) {
      log::warn_limited("pipeline.unknown_stage",
                        {{"instance", up.peer.instance}, {"stages", stages.size()}});
      return peers.drop(up.peer, "this cluster has only " + std::to_string(stages.size()) + " stages");
    }
    Stage& stage = stages[up.peer.instance];
    if (stage.handle) give_up(up.peer.instance, msg::Health::DOWN, "replaced by a newer process", false);
    stage = Stage{up.peer, up.stage, msg::Health::LOADING, "", 0, 0};
    self->monitor(up.stage);
    log::info("pipeline.stage_up",
              {{"stage", up.peer.instance}, {"node", up.peer.node}, {"pid", up.peer.pid}});
    if (std::all_of(stages.begin(), stages.end(), [](const Stage& s) { return static_cast<bool>(s.handle); }))
      raise_epoch();
    publish();
  }

  void raise_epoch() {
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
      assign->setLast(i + 1 == stages.size());
      if (i + 1 < stages.size()) {
        const PeerIdentity& next = stages[i + 1].peer;
        assign->setNextHost(next.listen_host);
        assign->setNextPort(next.listen_port);
        assign->setNextInstance(next.instance);
        assign->setNextNode(next.node);
      }
      stages[i].health = msg::Health::LOADING;
      self->send(stages[i].handle, std::move(assign).finish());
    }
    log::info("pipeline.epoch", {{"epoch", epoch}});
  }

  void report(const Frame<msg::StageReport>& frame) {
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
    if (phase == Phase::loading && std::all_of(stages.begin(), stages.end(), [](const Stage& s) {
          return s.health == msg::Health::READY;
        })) {
      phase = Phase::serving;
      last_pass = Clock::now();
      scheduler.request_canary();
      pump();
    }
    if (changed || phase == Phase::loading) publish();
  }

  void stage_down(const caf::down_msg& down) {
    for (uint32_t i = 0; i < stages.size(); ++i)
      if (stages[i].handle && caf::actor_cast<caf::actor_addr>(stages[i].handle) == down.source) {
        const std::string why = reason_of(down.reason, self->system());
        // A closed connection is a dead process; an ended lease is a process that no longer answers.
        return give_up(i, why.find("lease") != std::string::npos ? msg::Health::HUNG : msg::Health::DOWN,
                       why);
      }
  }

  /// Ends what is running: this version does not resume it.
  void abandon(const std::string& why) {
    passed = false;
    while (!requests.empty()) fail(requests.begin()->first, why);
    scheduler.reset();
    sent.clear();
  }

  /// A stage is lost: what it held cannot go on in this version, so its requests end with an error that is
  /// seen.
  void give_up(uint32_t index, msg::Health health, const std::string& why, bool replace = true) {
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

  bool ready() const {
    return phase == Phase::serving && passed &&
           Clock::now() - last_pass < milliseconds(options.readiness_period_ms);
  }

  std::string not_ready_reason() const {
    for (uint32_t i = 0; i < stages.size(); ++i) {
      const std::string name = "stage " + std::to_string(i);
      if (!stages[i].handle) return name + " is not there: " + stages[i].reason;
      if (stages[i].health == msg::Health::LOADING)
        return name + " is loading (" + std::to_string(stages[i].loaded_permille / 10) + " %)";
    }
    return passed ? "no token went through all stages within readiness_period_ms"
                  : "no token went through all stages yet";
  }

  void publish() {
    last_published = Clock::now();
    msg::FrameBuilder<msg::PipelineState> frame(256);
    frame->setPipeline(options.instance);
    frame->setReady(ready());
    frame->setAccepting(phase == Phase::serving);
    if (!ready()) frame->setReason(not_ready_reason());
    frame->setEpoch(epoch);
    frame->setRunning(static_cast<uint32_t>(scheduler.running()));
    frame->setWaiting(static_cast<uint32_t>(scheduler.waiting()));
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
    }
    const auto state = std::move(frame).finish();
    self->send(peers.gateway, state);
    self->send(peers.router, state);
    self->send(peers.node, state);
  }

  void tick() {
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
    if (phase == Phase::serving && !sent.empty() &&
        now - sent.front() > milliseconds(options.step_timeout_ms))
      give_up(slowest_stage(), msg::Health::HUNG, "owes a step longer than pipeline.step_timeout_ms");
    const auto period = milliseconds(options.readiness_period_ms);
    if (phase == Phase::serving && scheduler.in_flight() == 0 && now - last_pass > period / 2) {
      scheduler.request_canary();
      pump();
    }
    if (now - last_published >= period / 4) publish();
  }

  /// The first stage that owes the oldest step, by their reports; the last one if none admits it.
  uint32_t slowest_stage() const {
    uint32_t slowest = static_cast<uint32_t>(stages.size()) - 1, age = 0;
    for (uint32_t i = 0; i < stages.size(); ++i)
      if (stages[i].oldest_step_age_ms > age) {
        age = stages[i].oldest_step_age_ms;
        slowest = i;
      }
    return slowest;
  }
};

PipelineStateHolder::PipelineStateHolder() = default;
PipelineStateHolder::~PipelineStateHolder() = default;

PipelineActor::behavior_type pipeline(PipelineActor::stateful_pointer<PipelineStateHolder> self,
                                      PipelineOptions options, PipelinePeers peers) {
  self->state.data = std::make_unique<PipelineData>(self, std::move(options), std::move(peers));
  PipelineData* data = self->state.data.get();
  self->set_down_handler([data](caf::down_msg& down) { data->stage_down(down); });
  const auto interval = milliseconds(std::clamp<uint32_t>(data->options.readiness_period_ms / 8, 5, 50));
  self->delayed_send(self, interval, caf::tick_atom_v);
  return {
      [data](const Frame<msg::Generate>& frame) { data->generate(frame); },
      [data](const Frame<msg::Cancel>& frame) {
        data->cancel(msg::Reading(frame)->getReplyTo().getRequest());
      },
      [data](const Frame<msg::StepResult>& frame) { data->commit(frame); },
      [data](const Frame<msg::StageReport>& frame) { data->report(frame); },
      [data](const StageUp& up) { data->stage_up(up); },
      [data, self, interval](caf::tick_atom) {
        data->tick();
        self->delayed_send(self, interval, caf::tick_atom_v);
      },
  };
}

}  // namespace convoy::actors
