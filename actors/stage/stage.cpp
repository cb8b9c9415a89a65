#include "actors/stage/stage.hpp"

#include <deque>
#include <map>
#include <stdexcept>

#include "actors/process/log.hpp"
#include "actors/stage/stage_place.hpp"
#include "actors/stage/stage_reporter.hpp"
#include "actors/stage/step_codec.hpp"
#include "model/out_of_memory.hpp"

namespace convoy::actors {

/// The state and decisions of one stage actor. Runs only inside its actor.
struct StageData {
  StageActor::stateful_pointer<StageStateHolder> self;
  StageOptions options;
  std::shared_ptr<const model::Checkpoint> checkpoint;
  StageLinks links;
  std::shared_ptr<StepClock> clock;
  StageReporter reporter;
  StagePlace place;
  PipelineActor pipeline{};
  StageActor next{};

  std::unique_ptr<gpu::Engine> engine{};
  model::LayerRange range{};  // of the engine
  StageStatus status{};
  uint32_t next_instance = 0;
  uint64_t next_incarnation = 0;
  uint16_t next_port = 0;                            // 0: a stage alone has no next one
  std::string next_host{};                           // empty: it connects to us
  std::map<uint32_t, PeerIdentity> linked_stages{};  // by instance
  std::deque<gpu::StepPlan> plans{};                 // of the first stage, not yet run

  bool loaded() const { return engine && status.loaded_permille == 1000; }

  /// Works and says what went wrong: a stage that failed is replaced, it does not go on.
  template <class Work>
  void guarded(Work work) {
    try {
      return work();
    } catch (const std::exception& e) {
      status.reason = reason_of(e);
    } catch (const kj::Exception& e) {
      status.reason = e.getDescription().cStr();
    }
    clock->stop();
    log::error("stage.failed",
               {{"stage", options.instance}, {"epoch", status.epoch}, {"reason", status.reason}});
    status.health = msg::Health::DOWN;
    plans.clear();
    self->send(reporter, status);
  }

  void assign(const msg::Assign::Reader& a) {
    if (a.getEpoch() <= status.epoch) return;
    status = {};
    status.epoch = a.getEpoch();
    plans.clear();
    place.stay_on(std::nullopt);
    self->send(reporter, status);
    if (a.getNextPort() != next_port || !next) {
      next = nullptr;
      next_host = a.getNextHost();
      next_port = a.getNextPort();
      next_instance = a.getNextInstance();
      if (const auto linked = linked_stages.find(next_instance); linked != linked_stages.end())
        meet(linked->second);
      connect();
    }
    load({a.getFirstLayer(), a.getLastLayer()},
         {a.getKvBlocks(), a.getSlots(), options.context_tokens, options.rows_per_step, options.kv_type,
          options.deterministic});
    log::info(
        "stage.loaded",
        {{"stage", options.instance}, {"first", range.first}, {"last", range.last}, {"epoch", status.epoch}});
    tell();
  }

  /// Keeps the weights if the range did not change: a new epoch only forgets the sequences.
  void load(model::LayerRange wanted, const gpu::EngineLimits& limits) {
    if (engine && range.first == wanted.first && range.last == wanted.last) {
      engine->reset();
    } else {
      engine.reset();
      engine = std::make_unique<gpu::Engine>(
          options.device, checkpoint, wanted, limits, [this](int64_t layers, int64_t total) {
            status.loaded_permille = static_cast<uint32_t>(999 * layers / total);
            self->send(reporter, status);
          });
      engine->bind_thread();
      range = wanted;
    }
    status.loaded_permille = 1000;
  }

  /// Ready means loaded, and linked to the next stage.
  void tell() {
    if (!loaded() || status.health == msg::Health::DOWN) return;
    const bool linked = next_port == 0 || next;
    status.health = linked ? msg::Health::READY : msg::Health::LOADING;
    status.reason = linked ? "" : "connecting to the next stage";
    self->send(reporter, status);
  }

  void peer_up(const PeerUp& up) {
    if (up.peer.role == schema::Role::NODE) {
      pipeline = links.pipeline(up.peer);
      self->send(reporter, up);
    } else {
      linked_stages[up.peer.instance] = up.peer;
      meet(up.peer);
      tell();
    }
  }

  /// The next stage may just have died. Then the pipeline will name another; until then only this one will
  /// do.
  void refused(const PeerRefused& by) {
    if (by.address != next_host + ":" + std::to_string(next_port)) return;
    log::warn_limited("stage.next_refused", {{"stage", options.instance}, {"reason", by.reason}});
    self->delayed_send(self, std::chrono::milliseconds(options.report_ms), caf::tick_atom_v);
  }

  void connect() {
    if (!next && !next_host.empty()) links.connect(next_host, next_port);
  }

  /// On this machine.
  bool next_is_here() const { return next && linked_stages.at(next_instance).node == options.node; }

  void meet(const PeerIdentity& peer) {
    if (peer.instance != next_instance || peer.listen_port != next_port) return;
    next = links.next_stage(peer);
    next_incarnation = peer.incarnation;
    self->monitor(next);
  }

  /// Without the next stage no step can leave. The pipeline hears of it and raises the epoch, which connects
  /// again.
  void next_down(const caf::down_msg& down) {
    if (!next || next.address() != down.source) return;
    log::warn("stage.next_lost", {{"stage", options.instance}});
    next = nullptr;
    // Whoever took its place may have been linked before its end was heard.
    if (const auto linked = linked_stages.find(next_instance);
        linked != linked_stages.end() && linked->second.incarnation == next_incarnation)
      linked_stages.erase(linked);
    connect();  // only the connection may have ended; while loading nobody raises the epoch for that
    tell();
  }

  /// Whether what comes belongs to what this stage is now. Throws if the stage cannot run steps.
  bool current(uint64_t epoch, bool for_first) const {
    if (epoch != status.epoch || status.health == msg::Health::DOWN) return false;
    if (!loaded()) throw std::runtime_error("a step came before any layers were loaded");
    if (engine->first() != for_first)
      throw std::runtime_error(for_first ? "only the first stage takes plans and sampled tokens"
                                         : "the first stage takes no hidden states");
    return true;
  }

  /// The pipeline has at most as many steps in flight: more are its mistake.
  void plan(const Frame<msg::StepPlan>& frame) {
    const msg::Reading plan(frame);
    if (!current(plan->getEpoch(), true)) return;
    if (plans.size() >= options.steps_in_flight_max)
      throw std::runtime_error("more than " + std::to_string(options.steps_in_flight_max) +
                               " steps are queued (pipeline.pipeline_slack)");
    plans.push_back(decode(*plan));
    run_planned();
  }

  void sampled(const Frame<msg::StepResult>& frame) {
    const gpu::StepResult result = decode(frame);
    if (!current(result.epoch, true)) return;
    engine->feed_back(result);
    run_planned();
  }

  void activations(const Frame<msg::Activations>& frame) {
    const msg::Reading message(frame);
    const gpu::StepPlan step = decode(message->getPlan());
    if (!current(step.epoch, false)) return;
    const int core = message->getCore();
    run(step, decode_hidden(*message, step), core < 0 ? std::nullopt : std::optional(core));
  }

  /// All steps whose tokens are known, in order.
  void run_planned() {
    while (!plans.empty() && engine->resolve(plans.front())) {
      const gpu::StepPlan step = std::move(plans.front());
      plans.pop_front();
      run(step, {}, step.alone && next_is_here() ? StagePlace::here() : std::nullopt);
    }
  }

  /// core: where to compute, if the step runs alone; the next stage on this machine follows.
  void run(const gpu::StepPlan& step, std::span<const float> input, std::optional<int> core) {
    place.stay_on(core);
    clock->begin();
    place.begin();
    const gpu::StepOutput output = engine->run(step, input);
    place.end();
    clock->end(static_cast<size_t>(step.rows()));
    if (engine->last()) {
      const Frame<msg::StepResult> result = encode(output.result);
      if (next && !output.result.sequences.empty()) self->send(next, result);  // it may be waiting for it
      self->send(pipeline, result);
    } else if (next)
      self->send(next, encode_activations(step, output.hidden, next_is_here() ? place.core() : std::nullopt));
  }
};

namespace {

/// Of the actor's thread, which calls this. A stage with more threads either has all cores
/// (docs/decisions/0007) or leaves them to the system.
StagePlace place_of(const StageOptions& options, const StageLinks& links) {
  std::vector<pthread_t> threads;
  if (options.threads == 1) {
    threads.push_back(pthread_self());
    if (links.io_thread) threads.push_back(*links.io_thread);
  }
  return StagePlace(threads);
}

}  // namespace

StageStateHolder::StageStateHolder() = default;
StageStateHolder::~StageStateHolder() = default;

StageActor::behavior_type stage(StageActor::stateful_pointer<StageStateHolder> self, StageOptions options,
                                std::shared_ptr<const model::Checkpoint> checkpoint, StageLinks links) {
  const auto clock = std::make_shared<StepClock>();
  const auto reporter =
      self->spawn<caf::linked>(stage_reporter, options.instance, options.report_ms, clock, links.pipeline);
  const StagePlace place = place_of(options, links);
  self->state.data = std::make_unique<StageData>(
      StageData{self, options, std::move(checkpoint), std::move(links), clock, reporter, place});
  StageData* data = self->state.data.get();
  self->set_down_handler([data](caf::down_msg& down) { data->next_down(down); });
  return {
      [data](const Frame<msg::Assign>& frame) {
        data->guarded([&] {
          const msg::Reading a(frame);
          data->assign(*a);
        });
      },
      [data](const Frame<msg::StepPlan>& frame) { data->guarded([&] { data->plan(frame); }); },
      [data](const Frame<msg::Activations>& frame) { data->guarded([&] { data->activations(frame); }); },
      [data](const Frame<msg::StepResult>& frame) { data->guarded([&] { data->sampled(frame); }); },
      [data](const PeerUp& up) { data->peer_up(up); },
      [data](const PeerRefused& by) { data->refused(by); },
      [data](caf::tick_atom) { data->connect(); },
  };
}

}  // namespace convoy::actors
