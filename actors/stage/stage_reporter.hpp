#pragma once
// StageReporter: tells the pipeline how a stage is, on every change and every report_ms. An actor of its own,
// because the stage's thread blocks on its device: a stage that computes or hangs must still be heard of.

#include <atomic>
#include <chrono>
#include <memory>

#include "actors/messages.hpp"
#include "actors/schedule/step_cost.hpp"

namespace convoy::actors {

/// What the device does: since when it works on a step, how long it did so far, and what steps cost. Written
/// by the stage's thread around each step, read by the reporter: atomics in place of two messages a step,
/// which would cost a waking thread each on the way of every token.
class StepClock {
 public:
  /// clock: of the actors' system.
  explicit StepClock(const caf::actor_clock& clock) : clock_(clock) {}
  /// While no other is under way.
  void begin() { since_.store(now(), std::memory_order_release); }
  /// The oldest step under way is done; it had so many rows (0: it did other things too, and says nothing of
  /// what rows cost), and took so many us if the device says that, else since it began. With more under way
  /// the next one begins now: the device runs them in order, and waiting behind others is no part of what a
  /// step takes.
  void end(size_t rows, bool more, float took_us = 0) {
    const int64_t done = now();
    const auto since_us = static_cast<double>(done - since_.load(std::memory_order_relaxed)) / 1000;
    if (rows > 0) meter_.add(rows, took_us > 0 ? took_us : since_us);
    cost_.store(meter_.cost(), std::memory_order_relaxed);
    begin_next(more ? done : 0, done);
  }
  /// No step is under way.
  void stop() { begin_next(0, now()); }
  /// Milliseconds since the step under way began, rounded up; 0 if there is none.
  uint32_t age_ms() const {
    const int64_t since = since_.load(std::memory_order_acquire);
    return since == 0 ? 0 : static_cast<uint32_t>((now() - since) / 1'000'000 + 1);
  }
  StepCost cost() const { return cost_.load(std::memory_order_relaxed); }
  /// How long steps were under way, by this clock's time: us. A step that ends meanwhile may count only in
  /// the next call.
  struct Busy {
    uint64_t busy_us, clock_us;
  };
  Busy busy() const {
    const int64_t before = busy_.load(std::memory_order_acquire);
    const int64_t since = since_.load(std::memory_order_acquire), at = now();
    return {static_cast<uint64_t>(before + (since == 0 ? 0 : at - since)) / 1000,
            static_cast<uint64_t>(at) / 1000};
  }

 private:
  void begin_next(int64_t since, int64_t done) {
    const int64_t before = since_.exchange(since, std::memory_order_acq_rel);
    if (before != 0)
      busy_.store(busy_.load(std::memory_order_relaxed) + done - before, std::memory_order_release);
  }
  int64_t now() const { return clock_.now().time_since_epoch().count(); }  // ns, never 0
  const caf::actor_clock& clock_;
  std::atomic<int64_t> since_ = 0, busy_ = 0;
  std::atomic<StepCost> cost_ = StepCost{};
  StepCostMeter meter_;  // the stage's thread's
};

/// How a stage is, from its own thread.
struct StageStatus {
  uint64_t epoch = 0;
  msg::Health health = msg::Health::LOADING;
  uint32_t loaded_permille = 0;
  uint32_t kv_blocks = 0, kv_places = 0;       // once it is loaded
  bool lacks_model = false;                    // it fetches what it needs
  std::optional<model::LayerRange> fetched{};  // whose weights it has
  uint64_t fetch_progress = 0;                 // of others
  std::string reason;
};

}  // namespace convoy::actors

CAF_ALLOW_UNSAFE_MESSAGE_TYPE(convoy::actors::StageStatus)

namespace convoy::actors {

using StageReporter = caf::typed_actor<caf::reacts_to<StageStatus>,  // it changed
                                       caf::reacts_to<PeerUp>,       // the head node: where the pipeline is
                                       caf::reacts_to<caf::tick_atom>>;

struct StageReporterState {
  StageStatus status;
  PipelineActor pipeline;
  static inline const char* name = "stage_reporter";
};

StageReporter::behavior_type stage_reporter(StageReporter::stateful_pointer<StageReporterState> self,
                                            uint32_t instance, std::string pipeline, uint32_t report_ms,
                                            std::shared_ptr<const StepClock> clock,
                                            std::function<PipelineActor(const PeerIdentity&)> find_pipeline);

}  // namespace convoy::actors
