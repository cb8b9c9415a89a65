// Scheduler: what is left when the stages have forgotten everything.

#include <boost/test/unit_test.hpp>
#include <deque>
#include <map>

#include "scheduler_rig.hpp"

using namespace scheduler_rig;

namespace {

/// Runs steps until nothing is left, or so many were committed; what each sequence was given so far is in
/// `got`.
void run(Scheduler& s, std::map<actors::SequenceId, uint32_t>& got, int steps = 100'000) {
  std::deque<gpu::StepPlan> flying;
  for (; steps > 0 && s.running() + s.waiting() > 0; --steps) {
    while (auto plan = s.plan()) flying.push_back(std::move(*plan));
    BOOST_REQUIRE(!flying.empty());
    for (const auto& p : s.commit(answer(flying.front(), 9))) {
      BOOST_REQUIRE_EQUAL(p.first_index, got[p.id]);
      got[p.id] += static_cast<uint32_t>(p.tokens.size());
    }
    flying.pop_front();
  }
}

/// Fills the pipeline, and loses it.
std::vector<actors::Scheduler::Lost> lose(Scheduler& s) {
  while (s.plan()) continue;
  return s.begin_epoch(s.now).lost;
}

}  // namespace

BOOST_AUTO_TEST_CASE(an_epoch_loses_no_request) {
  Scheduler s(limits());
  std::map<actors::SequenceId, uint32_t> got;
  for (int i = 0; i < 8; ++i) s.admit(request(20 + 30 * static_cast<size_t>(i), 40));  // four run
  run(s, got, 20);
  BOOST_CHECK_GT(got.size(), 0u);
  BOOST_CHECK(lose(s).empty());
  BOOST_CHECK_EQUAL(s.running(), 0u);
  BOOST_CHECK_EQUAL(s.waiting(), 8u);
  BOOST_CHECK_EQUAL(s.in_flight(), 0u);
  const auto first = s.plan();
  BOOST_REQUIRE(first);
  BOOST_CHECK_EQUAL(first->step, 0u);
  BOOST_CHECK_EQUAL(first->starts.at(0).cached_tokens, 0u);
  s.begin_epoch(s.now);
  run(s, got);
  for (const auto& [id, tokens] : got) BOOST_CHECK_EQUAL(tokens, 40u);
  BOOST_CHECK_EQUAL(got.size(), 8u);
}

BOOST_AUTO_TEST_CASE(a_sequence_goes_on_with_the_token_that_comes_next) {
  auto l = limits();
  l.stages = 1, l.slack = 0;
  Scheduler s(l);
  std::map<actors::SequenceId, uint32_t> got;
  const auto id = s.admit(request(30, 50));
  run(s, got, 7);
  lose(s);
  const auto plan = s.plan();
  BOOST_REQUIRE(plan);
  BOOST_CHECK_EQUAL(plan->starts.at(0).prompt_tokens, 30u);  // penalties treat what it said itself apart
  BOOST_CHECK_EQUAL(plan->rows(), 30 + 7);
  BOOST_CHECK_EQUAL(plan->sequences.at(0).sampled_rows, 1u);
  const auto progress = s.commit(answer(*plan, 9));
  BOOST_REQUIRE_EQUAL(progress.size(), 1u);
  BOOST_CHECK_EQUAL(progress[0].id, id);
  BOOST_CHECK_EQUAL(progress[0].first_index, 7u);
  BOOST_CHECK_EQUAL(progress[0].facts.replays, 1u);
}

BOOST_AUTO_TEST_CASE(who_ran_whenever_a_stage_was_lost_is_lost_in_the_end_and_nobody_else) {
  auto l = limits();
  l.stages = 1, l.slack = 0;
  l.replays_max = 3;
  Scheduler s(l);
  const auto guilty = s.admit(request(10, 50));
  for (int i = 0; i < 2; ++i) s.admit(request(10, 50));
  for (int epoch = 1; epoch <= 3; ++epoch) {
    const auto plan = s.plan();
    BOOST_REQUIRE(plan);
    // All in the first two, since nobody knows; the guilty one alone from then on, as the oldest.
    BOOST_CHECK_EQUAL(plan->sequences.size(), epoch <= 2 ? 3u : 1u);
    BOOST_CHECK(s.begin_epoch(s.now).lost.empty());
  }
  BOOST_REQUIRE(s.plan());
  const auto lost = s.begin_epoch(s.now).lost;
  BOOST_REQUIRE_EQUAL(lost.size(), 1u);
  BOOST_CHECK_EQUAL(lost[0].id, guilty);
  BOOST_CHECK_MESSAGE(lost[0].why.find("4 times (pipeline.replays_max)") != std::string::npos, lost[0].why);
  std::map<actors::SequenceId, uint32_t> got;
  run(s, got);
  BOOST_CHECK_EQUAL(got.size(), 2u);
  for (const auto& [id, tokens] : got) BOOST_CHECK_EQUAL(tokens, 50u);
}

BOOST_AUTO_TEST_CASE(suspects_run_one_by_one_until_each_has_a_token_and_then_together) {
  auto l = limits();
  l.prefill_tokens = 64;
  Scheduler s(l);  // two stages: several steps could be in flight
  for (int i = 0; i < 3; ++i) s.admit(request(50, 10));
  lose(s);
  lose(s);
  std::map<actors::SequenceId, uint32_t> got;
  for (int alone = 0; alone < 3; ++alone) {
    const auto plan = s.plan();
    BOOST_REQUIRE(plan);
    BOOST_CHECK_EQUAL(plan->sequences.size(), 1u);
    BOOST_CHECK(!s.plan());
    for (const auto& p : s.commit(answer(*plan, 9))) got[p.id] += static_cast<uint32_t>(p.tokens.size());
  }
  BOOST_CHECK_EQUAL(got.size(), 3u);
  size_t most = 0;
  for (int step = 0; step < 6; ++step) {
    const auto plan = s.plan();
    BOOST_REQUIRE(plan);
    most = std::max(most, plan->sequences.size());
    for (const auto& p : s.commit(answer(*plan, 9))) got[p.id] += static_cast<uint32_t>(p.tokens.size());
  }
  BOOST_CHECK_GE(most, 2u);
  run(s, got);
  for (const auto& [id, tokens] : got) BOOST_CHECK_EQUAL(tokens, 10u);
}

BOOST_AUTO_TEST_CASE(who_was_in_no_step_is_no_suspect) {
  auto l = limits();
  l.sequences = 1;
  Scheduler s(l);
  s.admit(request(10, 5));
  const auto waits = s.admit(request(10, 5));
  for (int i = 0; i < 3; ++i) BOOST_CHECK(lose(s).empty());
  BOOST_CHECK_EQUAL(lose(s).size(), 1u);
  std::map<actors::SequenceId, uint32_t> got;
  run(s, got);
  BOOST_CHECK_EQUAL(got.at(waits), 5u);
}

BOOST_AUTO_TEST_CASE(blocks_may_be_counted_when_the_stages_have_said_how_many_they_have) {
  auto l = limits();
  l.kv_blocks = 0;
  Scheduler s(l);
  BOOST_CHECK(!s.refuse(request(500, 1)));  // nobody knows
  const auto large = s.admit(request(500, 1)), small = s.admit(request(64, 65));
  BOOST_CHECK(!s.plan());
  const auto lost = s.set_kv_blocks(3, 0, s.now);
  BOOST_REQUIRE_EQUAL(lost.size(), 1u);
  BOOST_CHECK_EQUAL(lost[0].id, large);
  BOOST_CHECK_MESSAGE(lost[0].why.find("need 8 KV blocks; the pipeline has 2") != std::string::npos,
                      lost[0].why);
  BOOST_CHECK_EQUAL(s.kv_cache().free(), 2u);  // one is the canary's
  BOOST_CHECK(!s.refuse(request(64, 65)));
  BOOST_CHECK(s.refuse(request(64, 66)));
  std::map<actors::SequenceId, uint32_t> got;
  run(s, got);
  BOOST_CHECK_EQUAL(got.at(small), 65u);
}

BOOST_AUTO_TEST_CASE(what_a_pipeline_that_is_gone_generated_is_gone_on_from) {
  auto l = limits();
  l.stages = 1, l.slack = 0;
  Scheduler s(l);
  auto r = request(30, 10);
  r.generated = {7, 8, 9};
  const auto id = s.admit(r);
  const auto plan = s.plan();
  BOOST_REQUIRE(plan);
  BOOST_CHECK_EQUAL(plan->starts.at(0).prompt_tokens, 30u);
  BOOST_CHECK_EQUAL(plan->rows(), 33);
  BOOST_CHECK_EQUAL(plan->sequences.at(0).sampled_rows, 1u);
  std::map<actors::SequenceId, uint32_t> got{{id, 3}};
  for (const auto& p : s.commit(answer(*plan, 9))) {
    BOOST_CHECK_EQUAL(p.first_index, 3u);
    got[id] += static_cast<uint32_t>(p.tokens.size());
  }
  run(s, got);
  BOOST_CHECK_EQUAL(got.at(id), 10u);
}

BOOST_AUTO_TEST_CASE(an_answer_that_has_its_end_cannot_go_on) {
  Scheduler s(limits());
  auto r = request(30, 3);
  r.sampling.end_tokens = {2};
  r.generated = {7, 8};
  BOOST_CHECK(!s.refuse(r));
  r.generated = {7, 8, 9};
  BOOST_CHECK_NE(s.refuse(r).value_or("").find("3 tokens already"), std::string::npos);
  r.generated = {7, 2};
  BOOST_CHECK_NE(s.refuse(r).value_or("").find("end token already"), std::string::npos);
  r.generated = {7, -1};
  BOOST_CHECK_NE(s.refuse(r).value_or("").find("outside the vocabulary"), std::string::npos);
}

BOOST_AUTO_TEST_CASE(suspects_stay_apart_when_the_epoch_of_their_loss_is_raised) {
  Scheduler s(limits());
  for (int i = 0; i < 3; ++i) s.admit(request(20, 40));
  lose(s), lose(s);      // all three ran both times
  s.begin_epoch(s.now);  // the stages are there again
  s.plan();
  BOOST_CHECK_EQUAL(s.running(), 1u);
}

BOOST_AUTO_TEST_CASE(a_new_plan_is_held_against_nobody_and_lets_nobody_go_who_has_to_run_alone) {
  auto l = limits();
  l.replays_max = 1;
  Scheduler s(l);
  s.admit(request(20, 40)), s.admit(request(20, 40));
  for (int times = 0; times < 3; ++times) {
    while (s.plan()) continue;
    const auto end = s.begin_epoch(s.now, actors::Scheduler::EpochCause::no_request);
    BOOST_CHECK(end.lost.empty() && end.suspects.empty());
    s.set_stages(1 + times % 2);
  }
  BOOST_CHECK(s.plan());
  BOOST_CHECK_EQUAL(s.running(), 2u);
}

BOOST_AUTO_TEST_CASE(more_stages_have_more_steps_in_flight) {
  auto l = limits();
  l.stages = 1, l.slack = 0;
  Scheduler s(l);
  for (int i = 0; i < 4; ++i) s.admit(request(20, 40));
  const auto fill = [&] {
    size_t steps = 0;
    while (s.plan()) ++steps;
    return steps;
  };
  const size_t alone = fill();
  s.begin_epoch(s.now, actors::Scheduler::EpochCause::no_request);
  s.set_stages(3);
  BOOST_CHECK_GT(fill(), alone);
}
