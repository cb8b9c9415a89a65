#pragma once
// Scheduler: which rows run in the next step. Owns the requests of one pipeline: token logs, slots, KV blocks
// and the steps in flight. No clock, no actor, no device: the pipeline actor calls it, and tests drive it
// alone.
//
// Continuous batching over P stages: at most P + slack steps are in flight, and chunks of a prompt may follow
// each other because stages run steps in order. Decodes form as many micro-batches as pay off by the measured
// cost of a step, at most P. A micro-batch is planned one step ahead of its tokens, which the last stage then
// feeds back to the first (docs/decisions/0006), and takes along who is waiting to join: no step waits for
// the scheduler, and no decode runs alone because its token came a little earlier or later than the others'
// (docs/decisions/0011).

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "actors/step_cost.hpp"
#include "gpu/step.hpp"

namespace convoy::actors {

struct SchedulerLimits {
  uint32_t stages = 1;
  uint32_t slack = 1;             // pipeline_slack
  uint32_t sequences = 16;        // running at once
  uint32_t queue = 64;            // waiting
  uint32_t kv_blocks = 1024;      // 0: not known before the stages have said how many they have
  uint32_t prefill_tokens = 512;  // of prompts in one step
  int64_t context_tokens = 0;
  int64_t vocab = 0;

  uint32_t steps_in_flight() const { return stages + slack; }
  /// A slot is taken again only in a later step than the one that ends it, so there are twice as many.
  uint32_t slots() const { return 2 * (sequences + 1); }
  /// Rows that one step may have: the engine's buffers.
  int64_t rows() const { return int64_t{prefill_tokens} + sequences + 1; }
};

using SequenceId = uint64_t;

struct NewSequence {
  std::vector<int32_t> prompt;
  model::Sampling sampling;
  uint32_t max_tokens = 1;
};

enum class FinishReason : uint8_t { none, stop, length, failed };

/// What a committed step gave one sequence.
struct Progress {
  SequenceId id = 0;
  uint32_t first_index = 0;               // of tokens.front() in the answer
  std::vector<gpu::SampledToken> tokens;  // none if it failed
  FinishReason finish = FinishReason::none;
  gpu::RowFault fault = gpu::RowFault::none;  // why it failed
  bool canary = false;
};

class Scheduler {
 public:
  explicit Scheduler(SchedulerLimits limits);

  /// Why a sequence can never run, or nothing.
  std::optional<std::string> refuse(const NewSequence& sequence) const;
  /// Whether one that came now would have to wait although as many wait as may.
  bool queue_full(const NewSequence& sequence) const;
  /// Takes a sequence that refuse() lets pass. It starts at once if there is room for it.
  SequenceId admit(NewSequence sequence);
  /// One token through every stage: proves that the pipeline works. Not counted as a request.
  void request_canary() { canary_wanted_ = true; }
  /// Forgets a sequence; results that are still in flight for it are ignored.
  void cancel(SequenceId id);

  /// The next step, or nothing if there is no work or enough is in flight. The caller fills in epoch.
  std::optional<gpu::StepPlan> plan();
  /// Takes the result of the oldest step in flight. Throws std::runtime_error if it is not that step's.
  std::vector<Progress> commit(const gpu::StepResult& result);

  /// What a step costs the slowest stage, as measured, and what splitting has to gain: decide how many
  /// micro-batches the decodes form.
  void set_step_cost(StepCost cost, float gain_min = split_gain_min) { cost_ = cost, gain_min_ = gain_min; }

  /// How many blocks every stage has. Forgets everything.
  void set_kv_blocks(uint32_t blocks);
  /// Forgets everything: a new epoch. Steps count from 0 again.
  void reset();

  size_t running() const { return running_; }
  size_t waiting() const { return waiting_.size(); }
  size_t in_flight() const { return in_flight_.size(); }
  /// Of these, how many sample.
  size_t micro_batches_in_flight() const;
  /// Of the latest steps that ran rows of requests, on average, older ones fading; 0: there were none.
  float rows_per_step() const { return rows_per_step_; }
  uint32_t free_blocks() const { return static_cast<uint32_t>(free_blocks_.size()); }
  const SchedulerLimits& limits() const { return limits_; }

 private:
  struct Sequence {
    std::vector<int32_t> tokens;  // the log: prompt and committed tokens
    uint32_t prompt_tokens = 0, max_tokens = 0;
    uint32_t planned = 0;  // positions that have been given to a step
    uint32_t reserved_blocks = 0;
    bool started = false, canary = false;
    uint32_t in_flight = 0;  // steps that sample
    uint32_t slot = 0;
    std::vector<uint32_t> blocks;
    model::Sampling sampling;
  };
  struct FlyingStep {
    uint64_t step;
    uint32_t rows = 0;  // of requests
    struct Sampled {
      SequenceId id;
      uint32_t slot, rows;
    };
    std::vector<Sampled> sampled = {};  // in the order of the plan
  };

  void start_waiting();
  bool fits(const Sequence& sequence) const;
  void add_decodes(gpu::StepPlan& plan, FlyingStep& flying);
  void add_known(size_t most, gpu::StepPlan& plan, FlyingStep& flying);
  void add_ahead(const FlyingStep& step, size_t most, gpu::StepPlan& plan, FlyingStep& flying);
  bool goes_on_ahead(SequenceId id) const;
  void add_prefill(gpu::StepPlan& plan, FlyingStep& flying);
  void add_rows(SequenceId id, Sequence& s, uint32_t count, gpu::StepPlan& plan, FlyingStep& flying);
  void release(std::map<SequenceId, Sequence>::iterator sequence);

  SchedulerLimits limits_;
  StepCost cost_;
  float gain_min_ = split_gain_min;
  std::map<SequenceId, Sequence> sequences_;  // started and waiting, by age
  // Of those that started: whose prompt goes on, and whose next token is known. The rest have steps in
  // flight.
  std::set<SequenceId> prefilling_, known_;
  std::deque<SequenceId> waiting_;
  std::deque<FlyingStep> in_flight_;
  std::vector<uint32_t> free_blocks_, free_slots_, ended_slots_;
  uint64_t next_step_ = 0;
  SequenceId next_id_ = 1, last_decoded_ = 0;
  uint32_t reserved_ = 0;  // blocks promised to started sequences; the canary has one of its own
  size_t running_ = 0;
  float rows_per_step_ = 0;
  bool canary_wanted_ = false, canary_running_ = false;
};

}  // namespace convoy::actors
