// Time that the scheduler takes for a step: planning and committing one, with many sequences that decode and
// many that wait, as JSON lines. The pipeline actor does nothing else meanwhile.

#include <time.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json.hpp>
#include <deque>
#include <iostream>
#include <vector>

#include "actors/schedule/scheduler.hpp"

namespace {

using namespace convoy;
using actors::Scheduler;

constexpr int32_t vocab = 32'000;

struct Load {
  uint32_t running = 1024, waiting = 4096, tenants = 1;
  uint32_t prompt = 16, answer = 2000;  // tokens; answers are long, so that all go on decoding
  size_t steps = 1000;
};

/// What the thread spent on its core: others use the machine too.
double thread_us() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) * 1e6 + static_cast<double>(t.tv_nsec) * 1e-3;
}

gpu::StepResult answer(const gpu::StepPlan& plan) {
  gpu::StepResult result{plan.epoch, plan.step, {}};
  for (const gpu::SeqStep& s : plan.sequences)
    if (s.sampled_rows > 0)
      result.sequences.push_back({s.slot, std::vector(s.sampled_rows, gpu::SampledToken{7})});
  return result;
}

/// Microseconds of the median, and of the slowest of a hundred.
boost::json::object quantiles(std::vector<double> us) {
  std::ranges::sort(us);
  return {{"median_us", us[us.size() / 2]}, {"p99_us", us[us.size() * 99 / 100]}};
}

boost::json::object measure(const Load& load) {
  actors::SchedulerLimits limits;
  limits.sequences = load.running;
  limits.queue = load.waiting;
  limits.kv_blocks = load.running * (load.prompt + load.answer) / 64 + 3 * load.running;
  limits.context_tokens = 4096;
  limits.vocab = vocab;
  Scheduler scheduler(limits, "secret");
  const Scheduler::Micros now{0};
  for (uint32_t i = 0; i < load.running + load.waiting; ++i) {
    actors::NewSequence s;
    // Of all lengths of a last block, so that blocks are filled at any time, not all in one step.
    s.prompt.assign(load.prompt + i % gpu::kv_block_tokens, static_cast<int32_t>(i % vocab));
    s.max_tokens = load.answer;
    s.tenant = std::to_string(i % load.tenants);
    scheduler.admit(std::move(s), now);
  }
  std::vector<double> planned, committed;
  std::deque<gpu::StepPlan> flying;
  while (planned.size() < load.steps) {
    for (;;) {
      const double start = thread_us();
      auto plan = scheduler.plan(now);
      const double took = thread_us() - start;
      if (!plan) break;
      if (plan->sequences.size() == load.running) planned.push_back(took);
      flying.push_back(std::move(*plan));
    }
    gpu::StepResult result = answer(flying.front());
    const bool full = result.sequences.size() == load.running;
    const double start = thread_us();
    scheduler.commit(std::move(result), now);
    if (full) committed.push_back(thread_us() - start);
    flying.pop_front();
  }
  return {{"running", scheduler.running()},
          {"waiting", scheduler.waiting()},
          {"tenants", load.tenants},
          {"plan", quantiles(planned)},
          {"commit", quantiles(committed)}};
}

}  // namespace

int main(int argc, char** argv) {
  Load load;
  std::vector<uint32_t> tenants{1, 1024};
  CLI::App app{"Measures how long the scheduler takes to plan and to commit a step"};
  app.add_option("--running", load.running)->check(CLI::Range(1, 8192));
  app.add_option("--waiting", load.waiting)->check(CLI::Range(0, 65'536));
  app.add_option("--tenants", tenants)->check(CLI::Range(1, 65'536));
  app.add_option("--steps", load.steps)->check(CLI::Range(1, 1900));
  CLI11_PARSE(app, argc, argv);

  for (const uint32_t n : tenants) {
    load.tenants = n;
    std::cout << boost::json::serialize(measure(load)) << std::endl;
  }
}
