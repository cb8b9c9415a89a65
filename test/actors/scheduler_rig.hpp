#pragma once
// What the scheduler's tests share: limits, requests, and a last stage's answer to a plan.

#include <string>
#include <utility>
#include <vector>

#include "actors/schedule/scheduler.hpp"

namespace scheduler_rig {

using namespace convoy;
using actors::FinishReason;
using actors::SchedulerLimits;

/// A scheduler for which no time passes unless the test says so.
struct Scheduler : actors::Scheduler {
  using actors::Scheduler::Scheduler;
  Micros now{};
  actors::SequenceId admit(actors::NewSequence sequence) {
    return actors::Scheduler::admit(std::move(sequence), now);
  }
  std::optional<gpu::StepPlan> plan() { return actors::Scheduler::plan(now); }
  std::vector<actors::Progress> commit(gpu::StepResult result) {
    return actors::Scheduler::commit(std::move(result), now);
  }
};

inline SchedulerLimits limits() {
  SchedulerLimits l;
  l.stages = 2;
  l.sequences = 4;
  l.queue = 8;
  l.kv_blocks = 64;
  l.prefill_tokens = 128;
  l.context_tokens = 1024;
  l.vocab = 100;
  return l;
}

/// One that finds nothing of others.
inline actors::NewSequence request(size_t prompt, uint32_t max_tokens, std::vector<int32_t> ends = {}) {
  static int number = 0;
  actors::NewSequence s;
  s.salt = std::to_string(++number);
  s.prompt.assign(prompt, 7);
  s.max_tokens = max_tokens;
  s.sampling.end_tokens = std::move(ends);
  return s;
}

/// What a last stage would answer: token `id` for every sampled row.
inline gpu::StepResult answer(const gpu::StepPlan& plan, int32_t id) {
  gpu::StepResult result{plan.epoch, plan.step, {}};
  for (const auto& s : plan.sequences)
    if (s.sampled_rows) result.sequences.push_back({s.slot, {{id, -1.0f, {}}}});
  return result;
}

}  // namespace scheduler_rig
