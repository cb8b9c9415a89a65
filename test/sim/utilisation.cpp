#include "test/sim/utilisation.hpp"

#include <algorithm>
#include <deque>
#include <unordered_map>

#include "test/actors/scheduler_rig.hpp"
#include "test/sim/world.hpp"

namespace sim {

using namespace convoy;
using actors::Scheduler;

namespace {

constexpr int32_t token_ids = 32'000;

actors::SchedulerLimits limits_for(uint32_t stages, Policy policy, const Load& load) {
  actors::SchedulerLimits limits;
  limits.stages = policy == Policy::ours ? stages : 1;
  limits.slack = policy == Policy::ours ? 1 : 0;
  limits.sequences = load.at_once;
  limits.context_tokens = int64_t{load.prompt.most} + load.answer.most;
  // For all that run, one more for each to grow by, and the canary's.
  limits.kv_blocks =
      1 + load.at_once * (1 + static_cast<uint32_t>(gpu::kv_blocks_for(limits.context_tokens)));
  limits.vocab = token_ids;
  return limits;
}

Quantiles quantiles(std::vector<double>& values) {
  if (values.empty()) return {};
  std::ranges::sort(values);
  return {values[values.size() / 2], values[values.size() * 99 / 100]};
}

/// The pipeline actor, the stages, and who asks.
class Pipeline {
 public:
  Pipeline(const Machine& machine, uint32_t stages, Policy policy, const Load& load, uint64_t seed)
      : machine_(machine),
        load_(load),
        scheduler_(limits_for(stages, policy, load), "secret"),
        times_(stages, machine.costs, seed),
        random_(seed) {
    // Stages have run steps of all sizes before.
    for (double rows = 1; rows <= 512; ++rows)
      meter_.add(static_cast<size_t>(rows), machine.costs.fixed_us + machine.costs.per_row_us * rows);
  }

  Utilisation run() {
    for (uint32_t i = 0; i < load_.at_once; ++i) admit();
    while (ended_ < load_.warm_up) turn();
    seen_ = {.begin_us = now_us_, .busy_us = times_.busy_us()};
    while (ended_ < load_.warm_up + load_.measured) turn();
    return seen();
  }

 private:
  struct Request {
    size_t prompt;
    double came_us, token_us;  // its newest token
  };
  struct Flying {
    double done_us;
    gpu::StepResult result;
  };
  /// Since the warm-up.
  struct Seen {
    double begin_us = 0;
    std::vector<double> busy_us = {};  // until then
    uint64_t prompt_tokens = 0, answer_tokens = 0, steps = 0, rows = 0;
    double flying_us = 0;  // all steps' together
    std::vector<double> first_token_us = {}, between_tokens_us = {};
  };

  Scheduler::Micros now() const { return Scheduler::Micros(static_cast<int64_t>(now_us_)); }

  void admit() {
    actors::NewSequence s;
    s.prompt.resize(random_.between(load_.prompt.least, load_.prompt.most));
    for (int32_t& token : s.prompt) token = static_cast<int32_t>(random_.between(0, token_ids - 1));
    s.max_tokens = static_cast<uint32_t>(random_.between(load_.answer.least, load_.answer.most));
    const Request request{s.prompt.size(), now_us_, now_us_};
    require(!scheduler_.refuse(s) && !scheduler_.full(), "the load is more than the pipeline takes");
    requests_[scheduler_.admit(std::move(s), now())] = request;
  }

  /// Until the oldest step in flight is done.
  void turn() {
    while (auto plan = scheduler_.plan(now())) {
      const auto rows = static_cast<size_t>(plan->rows());
      ++seen_.steps, seen_.rows += rows;
      flying_.push_back({times_.run(*plan, now_us_), scheduler_rig::answer(*plan, 7)});
      meter_.add(rows, times_.took_us());
    }
    require(!flying_.empty(), "requests wait, but nothing runs");
    require(flying_.size() <= scheduler_.limits().steps_in_flight(), "too many steps are in flight");
    seen_.flying_us += static_cast<double>(flying_.size()) * (flying_.front().done_us - now_us_);
    now_us_ = flying_.front().done_us;
    gpu::StepResult result = std::move(flying_.front().result);
    flying_.pop_front();
    for (const actors::Progress& progress : scheduler_.commit(std::move(result), now())) take(progress);
    scheduler_.set_step_cost(meter_.cost(), machine_.split_gain_min);
    if (load_.bursts && requests_.empty())
      for (uint32_t i = 0; i < load_.at_once; ++i) admit();
  }

  void take(const actors::Progress& progress) {
    const auto found = requests_.find(progress.id);
    Request& request = found->second;
    if (progress.first_index == 0) {
      seen_.first_token_us.push_back(now_us_ - request.came_us);
      seen_.prompt_tokens += request.prompt;
    } else {
      seen_.between_tokens_us.push_back(now_us_ - request.token_us);
    }
    request.token_us = now_us_;
    seen_.answer_tokens += progress.tokens.size();
    if (progress.finish == actors::FinishReason::none) return;
    requests_.erase(found);
    ++ended_;
    if (!load_.bursts) admit();
  }

  Utilisation seen() {
    const double us = now_us_ - seen_.begin_us, seconds = us * 1e-6;
    std::vector<double> busy = times_.busy_us();
    double sum = 0;
    for (size_t stage = 0; stage < busy.size(); ++stage)
      sum += busy[stage] = (busy[stage] - seen_.busy_us[stage]) / us;
    const auto [least, most] = std::ranges::minmax(busy);
    return {.seconds = seconds,
            .prompt_tokens_per_s = static_cast<double>(seen_.prompt_tokens) / seconds,
            .answer_tokens_per_s = static_cast<double>(seen_.answer_tokens) / seconds,
            .busy_min = least,
            .busy_mean = sum / static_cast<double>(busy.size()),
            .busy_max = most,
            .first_token_us = quantiles(seen_.first_token_us),
            .between_tokens_us = quantiles(seen_.between_tokens_us),
            .steps_in_flight = seen_.flying_us / us,
            .rows_per_step = static_cast<double>(seen_.rows) / static_cast<double>(seen_.steps)};
  }

  const Machine& machine_;
  const Load& load_;
  Scheduler scheduler_;
  ChainTimes times_;
  actors::StepCostMeter meter_;
  Random random_;
  double now_us_ = 0;
  std::deque<Flying> flying_;
  std::unordered_map<actors::SequenceId, Request> requests_;
  uint32_t ended_ = 0;
  Seen seen_;
};

}  // namespace

Load decode_load(uint32_t requests) {
  return {"decodes", {16, 16}, {256, 384}, requests, false, requests, requests};
}

Load steady_load(uint32_t requests) {
  return {"steady", {64, 192}, {128, 384}, requests, false, requests, 2 * requests};
}

Load burst_load(uint32_t requests) {
  return {"bursts", {64, 192}, {128, 384}, requests, true, requests, 2 * requests};
}

Load long_prompt_load() { return {"long prompts", {32'768, 32'768}, {1, 1}, 1, true, 1, 5}; }

Utilisation utilisation(const Machine& machine, uint32_t stages, Policy policy, const Load& load,
                        uint64_t seed) {
  return Pipeline(machine, stages, policy, load, seed).run();
}

Utilisation ideal(Machine machine, const Load& load, uint64_t seed) {
  machine.costs.jitter = machine.costs.hop_us = 0;
  return utilisation(machine, 1, Policy::ours, load, seed);
}

}  // namespace sim
