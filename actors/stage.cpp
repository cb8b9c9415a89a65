#include "actors/stage.hpp"

#include <deque>
#include <map>
#include <stdexcept>

#include "actors/log.hpp"
#include "actors/stage_reporter.hpp"
#include "actors/step_codec.hpp"

namespace convoy::actors {

namespace {

/// The hidden states of a step, checked against it. [rows, hidden]
std::span<const float> input_of(const msg::Activations::Reader& message, const gpu::StepPlan& plan) {
  const auto data = message.getData();
  const uint64_t values = uint64_t{message.getRows()} * message.getHidden();
  if (message.getRows() != plan.rows() || data.size() != values * sizeof(float))
    throw std::runtime_error("hidden states of step " + std::to_string(plan.step) + " have " +
                             std::to_string(message.getRows()) + " rows in " + std::to_string(data.size()) +
                             " bytes; the plan has " + std::to_string(plan.rows()) + " rows");
  return {reinterpret_cast<const float*>(data.begin()), values};
}

}  // namespace

/// The state and decisions of one stage actor. Runs only inside its actor.
struct StageData {
  StageActor::stateful_pointer<StageStateHolder> self;
  StageOptions options;
  std::shared_ptr<const model::Checkpoint> checkpoint;
  StageLinks links;
  std::shared_ptr<StepClock> clock;
  StageReporter reporter;
  PipelineActor pipeline{};
  StageActor next{};

  std::unique_ptr<gpu::Engine> engine{};
  model::LayerRange range{};  // of the engine
  StageStatus status{};
  bool last = false;
  uint32_t next_instance = 0;
  uint16_t next_port = 0;
  std::deque<gpu::StepPlan> plans{};                     // not yet run
  std::map<uint64_t, Frame<msg::Activations>> inputs{};  // by step

  bool loaded() const { return engine && status.loaded_permille == 1000; }

  /// Works and says what went wrong: a stage that failed is replaced, it does not go on.
  template <class Work>
  void guarded(Work work) {
    try {
      return work();
    } catch (const std::exception& e) {
      status.reason = e.what();
    } catch (const kj::Exception& e) {
      status.reason = e.getDescription().cStr();
    }
    clock->end();
    log::error("stage.failed",
               {{"stage", options.instance}, {"epoch", status.epoch}, {"reason", status.reason}});
    status.health = msg::Health::DOWN;
    plans.clear();
    inputs.clear();
    self->send(reporter, status);
  }

  void assign(const msg::Assign::Reader& a) {
    if (a.getEpoch() <= status.epoch) return;
    status = {};
    status.epoch = a.getEpoch();
    last = a.getLast();
    plans.clear();
    inputs.clear();
    self->send(reporter, status);
    if (!last && (a.getNextPort() != next_port || !next)) {
      next = nullptr;
      next_port = a.getNextPort();
      next_instance = a.getNextInstance();
      links.connect(a.getNextHost(), next_port);
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
          gpu::make_cpu_backend(options.kernels, options.threads), checkpoint, wanted, limits,
          [this](int64_t layers, int64_t total) {
            status.loaded_permille = static_cast<uint32_t>(999 * layers / total);
            self->send(reporter, status);
          });
      range = wanted;
    }
    status.loaded_permille = 1000;
  }

  /// Ready means loaded, and linked to the next stage.
  void tell() {
    if (!loaded() || status.health == msg::Health::DOWN) return;
    const bool linked = last || next;
    status.health = linked ? msg::Health::READY : msg::Health::LOADING;
    status.reason = linked ? "" : "connecting to the next stage";
    self->send(reporter, status);
  }

  void peer_up(const PeerUp& up) {
    if (up.peer.role == schema::Role::NODE) {
      pipeline = links.pipeline(up.peer);
      self->send(reporter, up);
    } else if (!last && up.peer.instance == next_instance && up.peer.listen_port == next_port) {
      next = links.next_stage(up.peer);
      self->monitor(next);
      tell();
    }
  }

  /// Without the next stage no step can leave. The pipeline hears of it and raises the epoch, which connects
  /// again.
  void next_down(const caf::down_msg& down) {
    if (!next || next.address() != down.source) return;
    log::warn("stage.next_lost", {{"stage", options.instance}});
    next = nullptr;
    tell();
  }

  void plan(const Frame<msg::StepPlan>& frame) {
    gpu::StepPlan step = decode(frame);
    if (step.epoch != status.epoch || status.health == msg::Health::DOWN) return;
    if (plans.size() >= options.steps_queued_max)
      throw std::runtime_error("more than " + std::to_string(options.steps_queued_max) + " steps are queued");
    plans.push_back(std::move(step));
    run();
  }

  void activations(const Frame<msg::Activations>& frame) {
    const msg::Reading a(frame);
    if (a->getEpoch() != status.epoch || status.health == msg::Health::DOWN) return;
    if (inputs.size() >= options.steps_queued_max)
      throw std::runtime_error("hidden states of more than " + std::to_string(options.steps_queued_max) +
                               " steps are queued");
    inputs[a->getStep()] = frame;
    run();
  }

  /// All steps whose plan and hidden states are there, in order.
  void run() {
    if (!loaded()) throw std::runtime_error("a step came before any layers were loaded");
    while (!plans.empty()) {
      Frame<msg::Activations> frame;
      if (!engine->first()) {
        const auto input = inputs.find(plans.front().step);
        if (input == inputs.end()) return;
        frame = std::move(input->second);
        inputs.erase(input);
      }
      const gpu::StepPlan step = std::move(plans.front());
      plans.pop_front();
      if (engine->first()) {
        run(step, {});
      } else {
        const msg::Reading hidden(frame);
        run(step, input_of(*hidden, step));
      }
    }
  }

  void run(const gpu::StepPlan& step, std::span<const float> input) {
    clock->begin();
    const gpu::StepOutput output = engine->run(step, input);
    clock->end();
    if (engine->last())
      self->send(pipeline, encode(output.result));
    else if (next)
      self->send(next, encode_activations(step.epoch, step.step, output.hidden, step.rows()));
  }
};

StageStateHolder::StageStateHolder() = default;
StageStateHolder::~StageStateHolder() = default;

StageActor::behavior_type stage(StageActor::stateful_pointer<StageStateHolder> self, StageOptions options,
                                std::shared_ptr<const model::Checkpoint> checkpoint, StageLinks links) {
  const auto clock = std::make_shared<StepClock>();
  const auto reporter =
      self->spawn<caf::linked>(stage_reporter, options.instance, options.report_ms, clock, links.pipeline);
  self->state.data = std::make_unique<StageData>(
      StageData{self, options, std::move(checkpoint), std::move(links), clock, reporter});
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
      [data](const PeerUp& up) { data->peer_up(up); },
  };
}

}  // namespace convoy::actors
