// What simulations found, each in its smallest form.

#include <boost/test/unit_test.hpp>
#include <deque>

#include "actors/schedule/scheduler.hpp"

namespace {

using namespace convoy;
using actors::Progress;
using actors::Scheduler;
using actors::SchedulerLimits;

constexpr Scheduler::Micros now{0};

SchedulerLimits limits() {
  SchedulerLimits l;
  l.sequences = 4;
  l.queue = 8;
  l.kv_blocks = 64;
  l.prefill_tokens = 128;
  l.prefill_share = 1;
  l.context_tokens = 1024;
  l.vocab = 100;
  return l;
}

actors::NewSequence request(const char* tenant, size_t prompt, uint32_t max_tokens) {
  actors::NewSequence s;
  s.prompt.assign(prompt, 7);
  s.max_tokens = max_tokens;
  s.tenant = s.salt = tenant;
  return s;
}

gpu::StepResult answer(const gpu::StepPlan& plan) {
  gpu::StepResult result{plan.epoch, plan.step, {}};
  for (const gpu::SeqStep& s : plan.sequences)
    if (s.sampled_rows > 0)
      result.sequences.push_back({s.slot, std::vector(s.sampled_rows, gpu::SampledToken{7})});
  return result;
}

/// Until nothing is left to be done: who finished, in that order.
std::vector<Progress> run(Scheduler& s) {
  std::vector<Progress> finished;
  std::deque<gpu::StepPlan> flying;
  for (;;) {
    while (auto plan = s.plan(now)) flying.push_back(std::move(*plan));
    if (flying.empty()) return finished;
    for (Progress& p : s.commit(answer(flying.front()), now))
      if (p.finish != actors::FinishReason::none) finished.push_back(std::move(p));
    flying.pop_front();
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(who_made_room_does_not_take_it_back) {
  Scheduler s(limits());
  s.admit(request("a", 600, 5), now);
  BOOST_REQUIRE(s.plan(now));
  for (int i = 0; i < 3; ++i) s.admit(request("b", 10, 5), now);
  BOOST_REQUIRE(s.plan(now));  // a has been served more than b, and runs less
  BOOST_REQUIRE_EQUAL(s.running(), 4u);
  s.admit(request("a", 10, 5), now);
  BOOST_CHECK_EQUAL(s.running(), 4u);
  BOOST_CHECK_EQUAL(s.counters().preemptions, 1u);
}
