#include "actors/stage.hpp"

#include <chrono>
#include <deque>
#include <map>

#include "actors/device.hpp"
#include "actors/log.hpp"
#include "actors/step_codec.hpp"

namespace convoy::actors {

namespace {
using Clock = std::chrono::steady_clock;
}

/// The state and decisions of one stage actor. Runs only inside its actor.
struct StageData {
  struct Owed {
    uint64_t step;
    Clock::time_point since;
  };

  StageData(StageActor::stateful_pointer<StageStateHolder> actor, StageOptions o, StageLinks l, DeviceActor d)
      : self(actor), options(o), links(std::move(l)), device(std::move(d)) {}

  StageActor::stateful_pointer<StageStateHolder> self;
  StageOptions options;
  StageLinks links;
  DeviceActor device;
  PipelineActor pipeline;
  StageActor next;

  uint64_t epoch = 0;
  uint32_t first_layer = 0, last_layer = 0;
  bool last = false, loaded = false;
  uint32_t next_instance = 0;
  uint16_t next_port = 0;
  std::string next_node, error;
  uint32_t loaded_permille = 0;
  std::deque<gpu::StepPlan> plans;                     // not yet given to the device
  std::map<uint64_t, Frame<msg::Activations>> inputs;  // by step
  std::deque<Owed> running;                            // given to the device
  /// Two, so that the device finds its next step in its mailbox when it ends one.
  static constexpr size_t running_max = 2;

  bool first() const { return first_layer == 0; }
  bool linked() const { return last || next; }

  void assign(const Frame<msg::Assign>& frame) {
    const msg::Reading a(frame);
    if (a->getEpoch() <= epoch) return;
    epoch = a->getEpoch();
    first_layer = a->getFirstLayer();
    last_layer = a->getLastLayer();
    last = a->getLast();
    loaded = false;
    loaded_permille = 0;
    error.clear();
    plans.clear();
    inputs.clear();
    running.clear();
    if (!last && (a->getNextPort() != next_port || !next)) {
      next = nullptr;
      next_port = a->getNextPort();
      next_instance = a->getNextInstance();
      next_node = a->getNextNode();
      links.connect(a->getNextHost(), next_port);
    }
    DeviceAssign work;
    work.epoch = epoch;
    work.range = {first_layer, last_layer};
    work.limits = {a->getKvBlocks(), a->getSlots(), options.context_tokens, options.rows_per_step};
    self->send(device, std::move(work));
    report();
  }

  void peer_up(const PeerIdentity& peer) {
    if (peer.role == schema::Role::NODE) {
      pipeline = links.pipeline(peer);
    } else if (peer.role == schema::Role::STAGE && !last && peer.instance == next_instance &&
               peer.listen_port == next_port) {
      next = links.next_stage(peer);
      self->monitor(next);
    }
    report();
  }

  /// Without the next stage no step can leave. The pipeline hears of it and raises the epoch, which connects
  /// again.
  void next_down(const caf::down_msg& down) {
    if (!next || next.address() != down.source) return;
    log::warn("stage.next_lost",
              {{"stage", options.instance}, {"reason", self->system().render(down.reason)}});
    next = nullptr;
    report();
  }

  void plan(const Frame<msg::StepPlan>& frame) {
    gpu::StepPlan step;
    try {
      step = decode(frame);
    } catch (const kj::Exception& e) {
      return fail(std::string("malformed plan: ") + e.getDescription().cStr());
    }
    if (step.epoch != epoch) return;
    if (plans.size() >= options.steps_queued_max)
      return fail("more than " + std::to_string(options.steps_queued_max) + " steps are queued");
    plans.push_back(std::move(step));
    dispatch();
  }

  void activations(const Frame<msg::Activations>& frame) {
    uint64_t step = 0;
    try {
      const msg::Reading a(frame);
      if (a->getEpoch() != epoch) return;
      step = a->getStep();
    } catch (const kj::Exception& e) {
      return fail(std::string("malformed hidden states: ") + e.getDescription().cStr());
    }
    if (inputs.size() >= options.steps_queued_max)
      return fail("hidden states of more than " + std::to_string(options.steps_queued_max) +
                  " steps are queued");
    inputs[step] = frame;
    dispatch();
  }

  void dispatch() {
    while (!plans.empty() && running.size() < running_max) {
      DeviceStep step;
      if (!first()) {
        const auto input = inputs.find(plans.front().step);
        if (input == inputs.end()) return;
        step.input = std::move(input->second);
        inputs.erase(input);
      }
      step.plan = std::move(plans.front());
      plans.pop_front();
      running.push_back({step.plan.step, Clock::now()});
      self->send(device, std::move(step));
    }
  }

  void done(const DeviceDone& d) {
    if (d.epoch != epoch) return;
    switch (d.what) {
      case DeviceDone::What::loading:
        loaded_permille = d.loaded_permille;
        return report();
      case DeviceDone::What::loaded:
        loaded = true;
        loaded_permille = 1000;
        log::info(
            "stage.loaded",
            {{"stage", options.instance}, {"first", first_layer}, {"last", last_layer}, {"epoch", epoch}});
        return report();
      case DeviceDone::What::failed:
        return fail(d.error);
      case DeviceDone::What::step:
        running.pop_front();
        if (!running.empty()) running.front().since = Clock::now();
        if (d.result)
          self->send(pipeline, d.result);
        else if (next)
          self->send(next, d.hidden);
        return dispatch();
    }
  }

  /// This stage cannot go on: it says so, and is replaced.
  void fail(const std::string& why) {
    log::error("stage.failed", {{"stage", options.instance}, {"epoch", epoch}, {"reason", why}});
    error = why;
    report();
  }

  void report() {
    if (!pipeline) return;
    msg::FrameBuilder<msg::StageReport> frame;
    frame->setEpoch(epoch);
    frame->setInstance(options.instance);
    frame->setHealth(!error.empty()       ? msg::Health::DOWN
                     : loaded && linked() ? msg::Health::READY
                                          : msg::Health::LOADING);
    frame->setLoadedPermille(loaded_permille);
    if (!running.empty()) {
      frame->setOldestStep(running.front().step);
      frame->setOldestStepAgeMs(static_cast<uint32_t>(
          1 + std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - running.front().since)
                  .count()));
    }
    frame->setReason(!error.empty() ? error : loaded && !linked() ? "connecting to the next stage" : "");
    frame->setFirstLayer(first_layer);
    frame->setLastLayer(last_layer);
    self->send(pipeline, std::move(frame).finish());
  }
};

StageStateHolder::StageStateHolder() = default;
StageStateHolder::~StageStateHolder() = default;

StageActor::behavior_type stage(StageActor::stateful_pointer<StageStateHolder> self, StageOptions options,
                                std::shared_ptr<const model::Checkpoint> checkpoint, StageLinks links) {
  const auto worker = self->spawn<caf::detached + caf::linked>(device, options.kernels, options.threads,
                                                               std::move(checkpoint), StageActor(self));
  self->state.data = std::make_unique<StageData>(self, options, std::move(links), worker);
  StageData* data = self->state.data.get();
  self->set_down_handler([data](caf::down_msg& down) { data->next_down(down); });
  const auto interval = std::chrono::milliseconds(options.report_ms);
  self->delayed_send(self, interval, caf::tick_atom_v);
  return {
      [data](const Frame<msg::Assign>& frame) { data->assign(frame); },
      [data](const Frame<msg::StepPlan>& frame) { data->plan(frame); },
      [data](const Frame<msg::Activations>& frame) { data->activations(frame); },
      [data](const PeerUp& up) { data->peer_up(up.peer); },
      [data](const DeviceDone& d) { data->done(d); },
      [data, self, interval](caf::tick_atom) {
        data->report();
        self->delayed_send(self, interval, caf::tick_atom_v);
      },
  };
}

}  // namespace convoy::actors
