// Scheduler: more requests than there is room for: who starts, who stands back, and that nobody starves.

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <deque>
#include <map>

#include "scheduler_rig.hpp"

using namespace scheduler_rig;

namespace {

actors::NewSequence of(std::string tenant, size_t prompt, uint32_t max_tokens,
                       uint8_t priority = actors::priority_default) {
  auto s = request(prompt, max_tokens);
  s.tenant = std::move(tenant);
  s.priority = priority;
  return s;
}

SchedulerLimits one_stage(uint32_t sequences, uint32_t kv_blocks) {
  auto l = limits();
  l.stages = 1;
  l.slack = 0;
  l.sequences = sequences;
  l.kv_blocks = kv_blocks;
  l.queue = 1000;
  return l;
}

/// Runs steps until nothing is left; the tokens that each sequence got.
std::map<actors::SequenceId, uint32_t> run(Scheduler& s) {
  std::map<actors::SequenceId, uint32_t> got;
  for (int turn = 0; turn < 100000 && s.running() + s.waiting() > 0; ++turn) {
    const auto plan = s.plan();
    BOOST_REQUIRE(plan);
    for (const auto& p : s.commit(answer(*plan, 9))) {
      BOOST_REQUIRE_EQUAL(p.first_index, got[p.id]);
      got[p.id] += static_cast<uint32_t>(p.tokens.size());
    }
  }
  BOOST_REQUIRE_EQUAL(s.running() + s.waiting(), 0u);
  return got;
}

/// Rows of a step's sequence in that slot; 0: it has none.
size_t rows_of(const gpu::StepPlan& plan, uint32_t slot) {
  for (const auto& q : plan.sequences)
    if (q.slot == slot) return q.tokens.size();
  return 0;
}

}  // namespace

BOOST_AUTO_TEST_CASE(nothing_is_reserved_for_what_a_sequence_may_grow_to) {
  Scheduler s(one_stage(4, 13));                          // twelve blocks
  for (int i = 0; i < 4; ++i) s.admit(request(60, 500));  // nine each, if they get that far
  BOOST_CHECK_EQUAL(s.running(), 4u);
  BOOST_CHECK_EQUAL(s.kv_blocks_used(), 4u);
}

BOOST_AUTO_TEST_CASE(the_youngest_is_preempted_and_gets_all_its_tokens_in_the_end) {
  Scheduler s(one_stage(4, 13));
  std::vector<actors::SequenceId> ids;
  for (int i = 0; i < 4; ++i) ids.push_back(s.admit(request(60, 300)));
  const auto got = run(s);
  for (const auto id : ids) BOOST_CHECK_EQUAL(got.at(id), 300u);
  BOOST_CHECK_GT(s.counters().preemptions, 0u);
  BOOST_CHECK_EQUAL(s.kv_blocks_used(), 0u);
}

BOOST_AUTO_TEST_CASE(a_preempted_sequence_is_computed_again_with_what_it_had_said) {
  Scheduler s(one_stage(2, 5));  // four blocks
  s.admit(request(120, 20));
  const auto young = s.admit(request(60, 100));
  uint32_t said = 0;
  for (int turn = 0; turn < 200 && s.counters().preemptions == 0; ++turn) {
    const auto plan = s.plan();
    for (const auto& p : s.commit(answer(*plan, 9)))
      if (p.id == young) ++said;
  }
  BOOST_REQUIRE_EQUAL(s.counters().preemptions, 1u);
  for (int turn = 0; turn < 200; ++turn) {
    const auto plan = s.plan();
    BOOST_REQUIRE(plan);
    if (plan->starts.empty()) {
      s.commit(answer(*plan, 9));
      continue;
    }
    const auto& start = plan->starts.at(0);
    const auto& rows = plan->sequences.at(0);
    BOOST_CHECK_EQUAL(start.prompt_tokens, 60u);  // what it said itself is no prompt
    BOOST_CHECK_EQUAL(start.cached_tokens + rows.tokens.size(), 60 + said);
    BOOST_CHECK_EQUAL(rows.tokens.back(), 9);
    const auto progress = s.commit(answer(*plan, 9));
    BOOST_REQUIRE_EQUAL(progress.size(), 1u);
    BOOST_CHECK_EQUAL(progress[0].first_index, said);
    return;
  }
  BOOST_FAIL("it did not start again");
}

BOOST_AUTO_TEST_CASE(what_is_in_flight_for_a_preempted_sequence_is_ignored) {
  auto l = one_stage(2, 8);
  l.slack = 1;
  Scheduler s(l);
  const auto low = s.admit(of("a", 10, 50, 1));
  const auto before = s.plan(), ahead = s.plan();
  BOOST_REQUIRE(before && ahead);
  for (int i = 0; i < 2; ++i) s.admit(of("b", 10, 50, 9));  // of two places both
  BOOST_CHECK_EQUAL(s.counters().preemptions, 1u);
  for (const auto& p : s.commit(answer(*before, 9))) BOOST_CHECK_NE(p.id, low);
  for (const auto& p : s.commit(answer(*ahead, 9))) BOOST_CHECK_NE(p.id, low);
  BOOST_CHECK_EQUAL(run(s).at(low), 50u);
}

BOOST_AUTO_TEST_CASE(a_higher_priority_goes_first_and_takes_the_place_of_a_lower_one) {
  Scheduler s(one_stage(1, 64));
  const auto low = s.admit(of("a", 10, 100, 2)), middle = s.admit(of("a", 10, 100, 5));
  BOOST_CHECK_EQUAL(s.running(), 1u);
  std::vector<actors::SequenceId> order;
  const auto high = s.admit(of("b", 10, 3, 9));
  for (int turn = 0; turn < 1000 && s.running() + s.waiting() > 0; ++turn)
    for (const auto& p : s.commit(answer(*s.plan(), 9)))
      if (p.finish != FinishReason::none) order.push_back(p.id);
  BOOST_TEST(order == (std::vector{high, middle, low}), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(a_tenant_with_one_request_does_not_wait_behind_another_ones_hundred) {
  Scheduler s(one_stage(8, 256));
  for (int i = 0; i < 100; ++i) s.admit(of("many", 10, 400));
  for (int turn = 0; turn < 20; ++turn) s.commit(answer(*s.plan(), 9));
  const auto one = s.admit(of("one", 100, 5));
  const auto plan = s.plan();
  BOOST_REQUIRE(plan);
  const auto starts =
      std::ranges::count_if(plan->starts, [](const auto& start) { return start.prompt_tokens == 100; });
  BOOST_CHECK_EQUAL(starts, 1);
  const auto progress = s.commit(answer(*plan, 9));
  BOOST_CHECK(std::ranges::any_of(progress, [&](const auto& p) { return p.id == one; }));
}

BOOST_AUTO_TEST_CASE(tenants_that_always_have_work_are_served_alike_however_many_requests_they_send) {
  Scheduler s(one_stage(8, 256));
  std::map<actors::SequenceId, std::string> tenant_of;
  std::map<std::string, uint32_t> served, waiting;
  for (int turn = 0; turn < 3000; ++turn) {
    const std::pair<const char*, uint32_t> wanted[] = {{"a", 60}, {"b", 6}};
    for (const auto& [tenant, count] : wanted)
      for (; waiting[tenant] < count; ++waiting[tenant]) tenant_of[s.admit(of(tenant, 20, 30))] = tenant;
    const auto plan = s.plan();
    BOOST_REQUIRE(plan);
    for (const auto& p : s.commit(answer(*plan, 9))) {
      served[tenant_of.at(p.id)] += static_cast<uint32_t>(p.tokens.size());
      waiting[tenant_of.at(p.id)] -= p.finish != FinishReason::none;
    }
  }
  BOOST_CHECK_CLOSE(static_cast<double>(served["a"]), static_cast<double>(served["b"]), 10.0);
}

BOOST_AUTO_TEST_CASE(who_pauses_saves_up_no_turns) {
  actors::Tenants tenants;
  auto &a = tenants.of("a"), &b = tenants.of("b");
  tenants.wait(a, 1, 5);
  tenants.charge(a, 1000);
  tenants.wait(b, 2, 5);  // comes when a was served a thousand
  BOOST_CHECK_EQUAL(b.served, 1000);
  tenants.charge(b, 10);
  BOOST_CHECK(tenants.next_waiting().tenant == &a);
  tenants.unwait(a, 1, 5);
  tenants.charge(b, 500);
  tenants.wait(a, 3, 5);
  BOOST_CHECK_EQUAL(a.served, 1510);
}

// ---- prompts ----

BOOST_AUTO_TEST_CASE(a_short_prompt_does_not_wait_for_the_end_of_a_long_one) {
  auto l = one_stage(8, 64);
  l.prefill_tokens = 100;
  Scheduler s(l);
  s.admit(of("a", 1000, 5));
  s.commit(answer(*s.plan(), 9));
  const auto id = s.admit(of("b", 150, 5));
  uint32_t steps = 0;
  for (bool came = false; !came; ++steps) {
    BOOST_REQUIRE_LT(steps, l.prefill_share);
    const auto plan = s.plan();
    BOOST_REQUIRE_EQUAL(plan->rows(), 100);
    BOOST_CHECK_GE(rows_of(*plan, 0), 25u);  // the oldest gets its share in each step
    for (const auto& p : s.commit(answer(*plan, 9))) came |= p.id == id;
  }
  BOOST_CHECK_EQUAL(steps, 3u);  // each tenant gets a half
}

BOOST_AUTO_TEST_CASE(a_long_prompt_is_not_starved_by_short_ones_that_keep_coming) {
  auto l = one_stage(8, 64);
  l.prefill_tokens = 100;
  Scheduler s(l);
  const auto id = s.admit(of("a", 500, 1));
  for (int turn = 0; turn < 20; ++turn) {
    for (int i = 0; i < 2; ++i) s.admit(of("b", 60, 1));
    for (const auto& p : s.commit(answer(*s.plan(), 9)))
      if (p.id == id) return;
  }
  BOOST_FAIL("it did not end in 20 steps, a quarter of each being enough");
}

BOOST_AUTO_TEST_CASE(prompts_beside_decodes_make_a_step_only_so_much_longer) {
  auto l = one_stage(8, 64);
  l.prefill_tokens = 512;
  l.prefill_stretch = 2.5f;
  Scheduler s(l);
  for (int i = 0; i < 4; ++i) s.admit(request(1, 100));
  s.commit(answer(*s.plan(), 9));
  s.admit(request(900, 5));
  s.set_step_cost({.fixed_us = 3000, .per_row_us = 100});
  auto plan = s.plan();  // 3,400 us of decodes: 5,100 more are 51 rows
  BOOST_CHECK_EQUAL(plan->rows(), 4 + 51);
  s.commit(answer(*plan, 9));
  s.set_step_cost({.fixed_us = 100, .per_row_us = 1000});
  plan = s.plan();
  BOOST_CHECK_EQUAL(plan->rows(), 4 + 16);  // or the weights are read for next to nothing
  s.commit(answer(*plan, 9));
  s.set_step_cost({.fixed_us = 3000, .per_row_us = 1});
  BOOST_CHECK_EQUAL(s.plan()->rows(), 4 + 512);
}

BOOST_AUTO_TEST_CASE(prompts_beside_decodes_are_dealt_over_half_as_many_more_steps_as_there_are_stages) {
  auto l = limits();
  l.stages = 4;
  l.slack = 8;
  l.prefill_tokens = 512;
  Scheduler s(l);
  s.admit(request(1, 100));
  s.commit(answer(*s.plan(), 9));
  BOOST_REQUIRE_EQUAL(s.plan()->rows(), 1);
  s.set_step_cost({.fixed_us = 50'000, .per_row_us = 100});
  s.admit(request(600, 5));
  for (int i = 0; i < 6; ++i) BOOST_CHECK_EQUAL(rows_of(*s.plan(), 1), 100u);
}

BOOST_AUTO_TEST_CASE(prompts_between_decodes_make_them_wait_no_longer_than_beside_them) {
  auto l = limits();
  l.prefill_tokens = 512;
  l.prefill_stretch = 2.5f;
  Scheduler s(l);
  s.admit(request(1, 100));
  s.commit(answer(*s.plan(), 9));
  BOOST_REQUIRE_EQUAL(s.plan()->rows(), 1);
  s.set_step_cost({.fixed_us = 3000, .per_row_us = 100});
  s.admit(request(900, 5));
  BOOST_CHECK_EQUAL(s.plan()->rows(), 47);  // 7,700 us; the decode takes 3,100
}

// ---- what it says ----

BOOST_AUTO_TEST_CASE(a_finished_sequence_says_where_its_time_went) {
  Scheduler s(one_stage(1, 64));
  const auto pass = [&](int us) { s.now += std::chrono::microseconds(us); };
  s.admit(request(200, 2));  // two chunks
  const auto second = s.admit(request(5, 3));
  pass(10);
  for (int step = 0; step < 3; ++step) {
    const auto plan = s.plan();
    pass(100);
    s.commit(answer(*plan, 9));
  }
  for (int step = 0; step < 3; ++step) {
    const auto plan = s.plan();
    pass(1000);
    for (const auto& p : s.commit(answer(*plan, 9))) {
      BOOST_CHECK_EQUAL(p.id, second);
      if (p.finish == FinishReason::none) continue;
      BOOST_CHECK_EQUAL(p.facts.times.queued.count(), 310);
      BOOST_CHECK_EQUAL((p.facts.times.prefill + p.facts.times.decode).count(), 3000);
      BOOST_CHECK_EQUAL(p.facts.times.preempted.count(), 0);
      return;
    }
  }
  BOOST_FAIL("it did not finish");
}

// When stages were lost all wait, but nobody has to finish before another can run.
BOOST_AUTO_TEST_CASE(who_comes_while_all_are_computed_again_waits_for_that_alone) {
  Scheduler s(one_stage(8, 64));
  for (int i = 0; i < 20; ++i) s.admit(request(10, 100));
  const auto step = [&] {
    const auto plan = s.plan();
    s.now += std::chrono::milliseconds(10);
    s.commit(answer(*plan, 9));
  };
  while (s.waiting() > 0) step();  // so that it is known how fast sequences finish
  while (s.running() > 4) step();
  BOOST_CHECK_EQUAL(s.wait_estimate().count(), 0);
  s.begin_epoch(s.now);
  BOOST_REQUIRE_EQUAL(s.waiting(), 4u);
  BOOST_CHECK_LT(s.wait_estimate(), std::chrono::milliseconds(300));  // 440 tokens, some 16 or more in 10 ms
  for (int i = 0; i < 20; ++i) s.admit(request(10, 100));
  BOOST_CHECK_GT(s.wait_estimate(), std::chrono::milliseconds(1500));  // 17 of 24 have to finish first
}

BOOST_AUTO_TEST_CASE(who_comes_is_told_how_long_it_would_wait) {
  Scheduler s(one_stage(2, 64));
  BOOST_CHECK_EQUAL(s.wait_estimate().count(), 0);
  for (int i = 0; i < 20; ++i) s.admit(request(10, 10));
  const auto step = [&] {
    const auto plan = s.plan();
    s.now += std::chrono::milliseconds(10);
    s.commit(answer(*plan, 9));
  };
  for (int i = 0; i < 40; ++i) step();  // two finish in ten steps or eleven
  const auto waiting = static_cast<double>(s.waiting());
  BOOST_REQUIRE_GT(waiting, 5);
  BOOST_CHECK_CLOSE(static_cast<double>(s.wait_estimate().count()), (waiting + 1) / 2 * 105e3, 20.0);
}
