#pragma once
// StepRunner: the steps of one stage on its engine. Holds those that wait for room or for tokens, and the
// frames that steps in flight read from and write to; gives out what comes of them, in order. The stage actor
// owns it, and calls it on the thread that computes. No actor itself.

#include <deque>
#include <memory>
#include <optional>

#include "actors/stage/stage_reporter.hpp"
#include "actors/stage/step_codec.hpp"
#include "gpu/engine.hpp"

namespace convoy::actors {

class StepRunner {
 public:
  /// A step that is done.
  struct Done {
    gpu::StepResult result;          // what the last stage sampled
    Frame<msg::Activations> hidden;  // what any other stage has for the next one, if it is not told yet
  };

  StepRunner(std::unique_ptr<gpu::Engine> engine, std::shared_ptr<StepClock> clock);

  /// So many steps may wait here in this epoch; more are the pipeline's mistake.
  void expect(uint32_t waiting_max) { waiting_max_ = waiting_max; }

  const gpu::Engine& engine() const { return *engine_; }
  gpu::Engine& engine() { return *engine_; }
  bool any_in_flight() const { return !in_flight_.empty(); }
  /// Whether one more could be submitted.
  bool has_room() const { return engine_->in_flight() < engine_->depth(); }

  /// A step for the first stage; for any other one, whose frame holds the hidden states before. Throws
  /// std::runtime_error if too many wait, or the frame does not fit the plan.
  void add(gpu::StepPlan plan);
  void add(gpu::StepPlan plan, const Frame<msg::Activations>& frame);
  /// Steps that came in this epoch: also the number of the next one.
  uint64_t steps() const { return steps_; }
  /// What the last stage sampled, for plans of the first one that lack it.
  void feed_back(const gpu::StepResult& result);

  /// What hidden states are handed over in from now on: float32, the engine's hidden_form(), or its edge.
  void hand_over_as(gpu::HiddenForm form) { form_ = form; }

  /// Hands the engine what it has room and tokens for, in order. next_is_here: the next stage is on this
  /// machine. Returns the frames of those whose hidden states go by an edge: the next stage is told when they
  /// begin, so that its device waits for them, and no host. Throws what the engine does.
  std::vector<Frame<msg::Activations>> submit(bool next_is_here);
  /// The oldest step in flight once it is done; nothing after `wait`. Throws what a step failed with.
  std::optional<Done> next_done(std::chrono::microseconds wait);

  /// Forgets everything: a new epoch.
  void reset();

 private:
  struct Waiting {
    gpu::StepPlan plan;
    Frame<msg::Activations> input;  // of any stage but the first
    bool ahead = false;             // planned ahead of all of its tokens
  };
  /// The device reads and writes these until the step is done.
  struct Flying {
    size_t rows = 0;            // that its time is measured by; 0: it moves blocks, too
    bool next_is_here = false;  // who may be told a hint
    Frame<msg::Activations> input;
    std::optional<ActivationsBuilder> output;  // of any stage but the last
  };
  void wait_in_line(Waiting step);
  void begin(Waiting step, bool next_is_here, bool alone);
  bool goes_by_edge() const { return !engine_->last() && form_ == gpu::HiddenForm::edge; }

  std::shared_ptr<StepClock> clock_;
  uint32_t waiting_max_ = 0;
  uint64_t steps_ = 0;
  std::deque<Waiting> waiting_;
  std::deque<Flying> in_flight_;
  gpu::HiddenForm form_ = gpu::HiddenForm::f32;
  std::optional<uint64_t> last_fed_back_;  // the latest step whose tokens came back
  std::unique_ptr<gpu::Engine> engine_;    // last, so that it ends before what it reads and writes
};

}  // namespace convoy::actors
