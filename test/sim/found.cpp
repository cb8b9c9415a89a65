// What simulations found, each in its smallest form.

#include <boost/test/unit_test.hpp>
#include <deque>

#include "test/actors/scheduler_rig.hpp"

namespace {

using namespace convoy;
using actors::Progress;
using actors::Scheduler;
using actors::SchedulerLimits;

constexpr Scheduler::Micros now{0};

SchedulerLimits limits() {
  SchedulerLimits l = scheduler_rig::limits();
  l.stages = 1;
  l.prefill_share = 1;
  return l;
}

actors::NewSequence request(const char* tenant, size_t prompt, uint32_t max_tokens) {
  actors::NewSequence s;
  s.prompt.assign(prompt, 7);
  s.max_tokens = max_tokens;
  s.tenant = s.salt = tenant;
  return s;
}

/// Every token is its position's last digit.
gpu::StepResult answer(const gpu::StepPlan& plan) {
  gpu::StepResult result{plan.epoch, plan.step, {}};
  for (const gpu::SeqStep& s : plan.sequences) {
    gpu::SampledTokens sampled{s.slot, {}};
    const auto end = s.first_position + static_cast<uint32_t>(s.tokens.size());
    for (uint32_t next = end - s.sampled_rows + 1; next <= end; ++next)
      sampled.tokens.push_back({static_cast<int32_t>(next % 10)});
    if (s.sampled_rows > 0) result.sequences.push_back(std::move(sampled));
  }
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

// It would be its turn at once, and the place would be given away and taken back for nothing.
BOOST_AUTO_TEST_CASE(who_was_served_less_does_not_stand_back) {
  Scheduler s(limits());
  s.admit(request("a", 600, 5), now);
  BOOST_REQUIRE(s.plan(now));
  for (int i = 0; i < 3; ++i) s.admit(request("b", 10, 5), now);
  BOOST_REQUIRE(s.plan(now));  // a has been served more than b, and runs less
  BOOST_REQUIRE_EQUAL(s.running(), 4u);
  s.admit(request("a", 10, 5), now);
  BOOST_CHECK_EQUAL(s.running(), 4u);
  BOOST_CHECK_EQUAL(s.waiting(), 1u);
  BOOST_CHECK_EQUAL(s.counters().preemptions, 0u);
}

BOOST_AUTO_TEST_CASE(a_sequence_that_is_preempted_before_it_begins_says_what_it_found_later) {
  auto l = limits();
  l.sequences = 1;
  Scheduler s(l);
  s.admit(request("a", 70, 1), now);
  BOOST_REQUIRE_EQUAL(run(s).size(), 1u);
  const auto low = s.admit(request("a", 70, 1), now);
  auto urgent = request("a", 10, 1);
  urgent.priority = actors::priority_default + 1;
  s.admit(urgent, now);
  BOOST_CHECK_EQUAL(s.counters().preemptions, 1u);
  const auto finished = run(s);
  BOOST_REQUIRE_EQUAL(finished.size(), 2u);
  BOOST_CHECK_EQUAL(finished[1].id, low);
  BOOST_CHECK_EQUAL(finished[1].facts.cached_tokens, 64u);
}

BOOST_AUTO_TEST_CASE(guesses_leave_room_for_the_oldest_prompt) {
  auto l = limits();
  l.prefill_tokens = 16;
  Scheduler s(l);
  for (int i = 0; i < 3; ++i) {
    auto guesses = request("a", 0, 200);
    for (int32_t position = 0; position < 30; ++position) guesses.prompt.push_back(position % 10);
    guesses.drafts = 8;
    s.admit(guesses, now);
  }
  for (int i = 0; i < 12; ++i) s.commit(answer(*s.plan(now)), now);  // all three guess by then
  s.admit(request("a", 100, 5), now);
  for (int i = 0; i < 4; ++i) {
    const auto plan = s.plan(now);
    BOOST_REQUIRE(plan);
    BOOST_CHECK_LE(plan->rows(), l.rows());
    BOOST_CHECK(
        std::ranges::any_of(plan->sequences, [](const gpu::SeqStep& rows) { return rows.slot == 3; }));
    s.commit(answer(*plan), now);
  }
}
