#pragma once
// Stages: a chain of P stages that run the scheduler's plans. What they hold is kept once: all of them run
// the same steps in the same order on the same tokens, so each would hold the same. What takes time is kept
// for each (ChainTimes).

#include <array>
#include <optional>
#include <random>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "actors/schedule/scheduler.hpp"
#include "gpu/step.hpp"
#include "test/sim/fake_model.hpp"

namespace sim {

/// What was found wrong.
struct Violation : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <class... Parts>
void require(bool right, const Parts&... parts) {
  if (right) return;
  std::ostringstream what;
  (what << ... << parts);
  throw Violation(what.str());
}

/// What a step costs a stage, in microseconds.
struct Costs {
  double fixed_us = 0, per_row_us = 0, per_context_us = 0;  // the last: of each token that a row attends to
  double jitter = 0.1;                                      // log-normal
  double hop_us = 100;                                      // to the first stage, between two, and back
};
inline constexpr Costs cpu_costs{3'000, 500, 0.02};  // the default model on a processor's core
// R1-Distill-Qwen-7B on an H200 by its floor: 303, 8,590 and 31,700 tokens/s with 1, 32 and 256 decodes at a
// context of 1,024.
inline constexpr Costs h200_costs{3'300, 5, 0.013};

/// When steps run and are done: each stage runs them in the order of the plans, and a row that is fed back
/// waits in the first stage for the token that it goes on with.
class ChainTimes {
 public:
  ChainTimes(size_t stages, Costs costs, uint64_t seed)
      : costs_(costs), free_us_(stages), busy_us_(stages), random_(seed) {}

  /// When the step's result reaches the scheduler. sampled_at: by slot, kept from step to step.
  double run(const convoy::gpu::StepPlan& plan, double now_us);
  /// What a step cost the last stage, without hops and waiting.
  double took_us() const { return took_us_; }
  /// That stages computed so far.
  const std::vector<double>& busy_us() const { return busy_us_; }

 private:
  Costs costs_;
  std::vector<double> free_us_, busy_us_;
  std::vector<double> sampled_us_;  // by slot: when what it sampled last left the last stage
  std::mt19937_64 random_;
  double took_us_ = 0;
};

class Stages {
 public:
  /// What a slot holds.
  struct Slot {
    bool started = false;
    convoy::gpu::SeqStart start;
    std::vector<uint32_t> table;
    int64_t length = 0;               // positions that are written
    std::vector<uint64_t> penalties;  // sums up to each position, if they count
    std::optional<uint64_t> sampled_in;
    int32_t sampled = 0;
  };
  /// A position that is not written although its row was run: what a test plants.
  std::optional<uint64_t> skipped_row;

  /// limits: of who plans their steps.
  explicit Stages(const convoy::actors::SchedulerLimits& limits)
      : limits_(limits), slots_(limits.slots()), blocks_(limits.kv_blocks), places_(limits.kv_tier.places) {}

  /// Runs a step. Throws Violation on a plan that stages would refuse.
  convoy::gpu::StepResult run(const convoy::gpu::StepPlan& plan);
  const Slot& slot(uint32_t slot) const { return slots_.at(slot); }
  uint32_t slots() const { return limits_.slots(); }
  uint64_t rows_run() const { return rows_run_; }

 private:
  using Block = std::array<Cell, static_cast<size_t>(convoy::gpu::kv_block_tokens)>;

  void start(const convoy::gpu::SeqStart& start);
  void change(const convoy::gpu::BlockChange& change);
  void move(const convoy::gpu::BlockMove& move);
  convoy::gpu::SampledTokens run(const convoy::gpu::SeqStep& step, uint64_t number);
  Cell& cell(const Slot& slot, int64_t position);

  convoy::actors::SchedulerLimits limits_;
  std::vector<Slot> slots_;
  std::vector<Block> blocks_;
  std::vector<std::optional<Block>> places_;  // of the second tier
  uint64_t rows_run_ = 0;
};

}  // namespace sim
