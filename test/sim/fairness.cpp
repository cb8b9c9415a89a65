// Tenants that always have something to be done, served side by side: who gets how much, and who waits how
// long.
//
// Service is counted as the scheduler counts it: 1 for a token of a prompt, decode_weight for a decode. The
// bound on the gap between two tenants is N * U: N sequences may run, each of them costs U at most. Whoever
// was served more starts nothing until the other one was served as much; so it gets ahead by no more than
// what it had running. And a request waits until the tenant's earlier ones have begun, W tokens of work, of
// which the tenant gets each T-th of T tenants; so all are served T * (W + N * U) at most until it begins.

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <deque>
#include <map>

#include "test/patience.hpp"
#include "test/sim/world.hpp"

namespace {

using namespace sim;
using namespace convoy;
using actors::Scheduler;

struct Shape {  // of a tenant's requests
  uint32_t prompt, answer, at_once;
};

/// Each tenant asks again as soon as an answer ends.
class Backlog {
 public:
  /// told: whether the scheduler knows whose the requests are.
  Backlog(uint64_t seed, std::vector<Shape> shapes, bool told)
      : random_(seed), shapes_(std::move(shapes)), told_(told), served_(shapes_.size()) {
    limits_.stages = static_cast<uint32_t>(random_.between(1, 4));
    limits_.sequences = 8;
    limits_.prefill_tokens = 128;
    limits_.context_tokens = 1'000;
    limits_.vocab = vocab;
    for (const Shape& shape : shapes_) {
      limits_.queue += shape.at_once;
      const uint32_t cost = shape.prompt + static_cast<uint32_t>(actors::decode_weight) * shape.answer;
      sequence_max_ = std::max(sequence_max_, cost);
    }
    // For about half of those that may run.
    limits_.kv_blocks = static_cast<uint32_t>(random_.between(24, 48));
  }

  double bound() const { return limits_.sequences * sequence_max_; }
  double service() const { return service_; }
  double gap_max() const { return gap_max_; }
  /// The longest wait, as a share of what it may be: of service, and of time.
  double wait_max() const { return wait_max_; }
  double time_max() const { return time_max_; }

  void run(double service) {
    Scheduler scheduler(limits_, "secret");
    Stages stages(limits_);
    ChainTimes times(limits_.stages, cpu_costs, 1);
    std::deque<std::pair<double, gpu::StepResult>> flying;
    for (size_t tenant = 0; tenant < shapes_.size(); ++tenant)
      for (uint32_t i = 0; i < shapes_[tenant].at_once; ++i) admit(scheduler, tenant);
    while (service_ < service) {
      while (auto plan = scheduler.plan(now())) {
        count(*plan);
        auto result = stages.run(*plan);
        flying.emplace_back(times.run(*plan, now_us_), std::move(result));
      }
      BOOST_REQUIRE(!flying.empty());
      now_us_ = flying.front().first;
      for (const auto& progress : scheduler.commit(std::move(flying.front().second), now()))
        if (progress.finish != actors::FinishReason::none) {
          const size_t tenant = requests_[by_id_.at(progress.id)].tenant;
          by_id_.erase(progress.id);
          admit(scheduler, tenant);
        }
      flying.pop_front();
    }
  }

 private:
  struct Request {
    size_t tenant;
    double came_us, service_then;
    uint32_t prompt;
    bool begun = false;
  };
  Scheduler::Micros now() const { return Scheduler::Micros(static_cast<int64_t>(now_us_)); }

  void admit(Scheduler& scheduler, size_t tenant) {
    const Shape& shape = shapes_[tenant];
    actors::NewSequence s;
    for (uint32_t i = 0; i < shape.prompt; ++i)
      s.prompt.push_back(static_cast<int32_t>(random_.between(0, vocab - 1)));
    s.max_tokens = shape.answer;
    s.tenant = told_ ? std::to_string(tenant) : "";
    s.sampling.temperature = 1;
    s.sampling.seed = requests_.size() + 1;
    BOOST_REQUIRE(!scheduler.refuse(s) && !scheduler.full());
    requests_.push_back({tenant, now_us_, service_, shape.prompt});
    by_id_[scheduler.admit(std::move(s), now())] = requests_.size() - 1;
  }

  void count(const gpu::StepPlan& plan) {
    for (const gpu::SeqStart& start : plan.starts) {
      const size_t request = start.sampling.seed - 1;
      slots_[start.slot] = request;
      Request& r = requests_[request];
      if (std::exchange(r.begun, true)) continue;
      // Ahead of it are as many of the tenant's as it asks for at once.
      const double tenants = static_cast<double>(shapes_.size());
      const double allowed = tenants * (shapes_[r.tenant].at_once * sequence_max_ + bound());
      wait_max_ = std::max(wait_max_, (service_ - r.service_then) / allowed);
      const double row_us = cpu_costs.fixed_us + cpu_costs.per_row_us + cpu_costs.per_context_us * 1'000;
      time_max_ = std::max(time_max_, (now_us_ - r.came_us) / (allowed * row_us * limits_.stages));
    }
    for (const gpu::SeqStep& step : plan.sequences) {
      Request& r = requests_[slots_.at(step.slot)];
      const bool decode =
          step.first_position >= r.prompt && step.tokens.size() == 1 && step.sampled_rows == 1;
      const double tokens = static_cast<double>(step.tokens.size()) * (decode ? actors::decode_weight : 1);
      served_[r.tenant] += tokens;
      service_ += tokens;
    }
    const auto [least, most] = std::ranges::minmax(served_);
    gap_max_ = std::max(gap_max_, most - least);
  }

  Random random_;
  std::vector<Shape> shapes_;
  bool told_;
  actors::SchedulerLimits limits_;
  uint32_t sequence_max_ = 0;
  double now_us_ = 0, service_ = 0, gap_max_ = 0, wait_max_ = 0, time_max_ = 0;
  std::vector<double> served_;
  std::vector<Request> requests_;
  std::map<actors::SequenceId, size_t> by_id_;
  std::map<uint32_t, size_t> slots_;
};

const std::vector<std::vector<Shape>> crowds{
    {{300, 20, 10}, {20, 100, 10}},                               // one reads, one writes
    {{100, 30, 60}, {100, 30, 10}},                               // one asks for much more
    {{500, 5, 10}, {5, 150, 10}, {60, 60, 40}, {1, 1, 100}},      // and of all sizes
    {{200, 50, 10}, {200, 50, 10}, {200, 50, 10}, {200, 50, 10}}  // all alike
};

}  // namespace

BOOST_AUTO_TEST_CASE(tenants_with_work_are_served_alike_and_nobody_starves) {
  for (const auto& shapes : crowds)
    for (uint64_t seed = 1; seed <= (convoy::test::sanitized ? 1 : 5); ++seed) {
      BOOST_TEST_CONTEXT(shapes.size()
                         << " tenants, the first with prompts of " << shapes[0].prompt << ", seed " << seed) {
        Backlog backlog(seed, shapes, true);
        // Long enough that one served twice as much as another were far behind the bound.
        backlog.run(4 * backlog.bound() * static_cast<double>(shapes.size()));
        BOOST_CHECK_LE(backlog.gap_max(), backlog.bound());
        BOOST_CHECK_LE(backlog.wait_max(), 1);
        BOOST_CHECK_LE(backlog.time_max(), 1);
        BOOST_TEST_MESSAGE("gap " << backlog.gap_max() / backlog.bound() << " of its bound, wait "
                                  << backlog.wait_max() << ", time " << backlog.time_max());
      }
    }
}

BOOST_AUTO_TEST_CASE(a_scheduler_that_knows_no_tenants_is_found_unfair) {
  Backlog backlog(1, crowds[1], false);
  backlog.run(8 * backlog.bound());
  BOOST_CHECK_GT(backlog.gap_max(), backlog.bound());
}
