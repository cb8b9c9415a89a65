// Scheduler: what sequences find of each other's KV blocks, and what they guess from their own tokens.

#include <boost/test/unit_test.hpp>
#include <numeric>

#include "scheduler_rig.hpp"

using namespace scheduler_rig;

namespace {

/// A prompt whose tokens count up from `first`, so that no two blocks of it are alike.
actors::NewSequence counting(size_t prompt, uint32_t max_tokens, std::string salt = "", int32_t first = 0) {
  actors::NewSequence s;
  s.prompt.resize(prompt);
  for (size_t i = 0; i < prompt; ++i) s.prompt[i] = (first + static_cast<int32_t>(i) * 7) % 97;
  s.max_tokens = max_tokens;
  s.salt = std::move(salt);
  return s;
}

/// Runs it alone until it ends; its facts.
actors::SequenceFacts run(Scheduler& s, actors::NewSequence sequence, int32_t token = 9) {
  const auto id = s.admit(std::move(sequence));
  for (int turn = 0; turn < 1000; ++turn) {
    const auto plan = s.plan();
    BOOST_REQUIRE(plan);
    for (const auto& p : s.commit(answer(*plan, token)))
      if (p.id == id && p.finish != FinishReason::none) return p.facts;
  }
  BOOST_FAIL("it does not end");
  return {};
}

SchedulerLimits one_stage() {
  auto l = limits();
  l.stages = 1;
  l.slack = 0;
  return l;
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_prompt_begins_behind_the_full_blocks_that_an_earlier_one_left) {
  Scheduler s(one_stage());
  BOOST_CHECK_EQUAL(run(s, counting(200, 1)).cached_tokens, 0u);
  s.admit(counting(200, 1));
  const auto plan = s.plan();
  BOOST_REQUIRE(plan);
  BOOST_CHECK_EQUAL(plan->starts.at(0).cached_tokens, 192u);
  BOOST_CHECK(plan->starts[0].history.empty());  // nothing is penalised
  BOOST_CHECK_EQUAL(plan->sequences.at(0).first_position, 192u);
  BOOST_CHECK_EQUAL(plan->rows(), 8);
  BOOST_CHECK_EQUAL(plan->block_changes.size(), 4u);  // its whole table
  BOOST_CHECK_EQUAL(s.counters().cached_tokens, 192u);
  BOOST_CHECK_EQUAL(s.counters().prompt_tokens, 400u);
}

BOOST_AUTO_TEST_CASE(the_last_token_of_a_prompt_is_always_computed) {
  Scheduler s(one_stage());
  run(s, counting(128, 2));
  BOOST_CHECK_EQUAL(run(s, counting(128, 1)).cached_tokens, 64u);
  BOOST_CHECK_EQUAL(run(s, counting(129, 1)).cached_tokens, 128u);
}

BOOST_AUTO_TEST_CASE(an_answer_is_found_as_the_beginning_of_the_next_prompt) {
  Scheduler s(one_stage());
  run(s, counting(60, 70));  // 60 + 69 positions are computed: two full blocks
  auto next = counting(60, 1);
  next.prompt.insert(next.prompt.end(), 80, 9);
  BOOST_CHECK_EQUAL(run(s, next).cached_tokens, 128u);
}

BOOST_AUTO_TEST_CASE(another_salt_finds_nothing) {
  Scheduler s(one_stage(), "secret");
  run(s, counting(200, 1, "a"));
  BOOST_CHECK_EQUAL(run(s, counting(200, 1, "b")).cached_tokens, 0u);
  BOOST_CHECK_EQUAL(run(s, counting(200, 1, "a")).cached_tokens, 192u);
}

BOOST_AUTO_TEST_CASE(a_block_is_found_only_behind_the_same_tokens) {
  Scheduler s(one_stage());
  run(s, counting(200, 1));
  auto other = counting(200, 1);
  other.prompt[0] = 96;  // the blocks behind the first are the same, their positions mean something else
  BOOST_CHECK_EQUAL(run(s, other).cached_tokens, 0u);
}

BOOST_AUTO_TEST_CASE(a_block_is_found_once_its_step_is_committed_and_not_before) {
  Scheduler s(limits());
  s.admit(counting(100, 1));
  const auto first = s.plan();
  auto other = counting(100, 1);
  s.admit(other);
  BOOST_CHECK(!s.plan());  // it waits for the first block, which is in flight
  s.commit(answer(*first, 9));
  const auto second = s.plan();
  BOOST_REQUIRE(second);
  BOOST_CHECK_EQUAL(second->starts.at(0).cached_tokens, 64u);
}

// n choices of one prompt, or many clients with one long instruction: it is computed once.
BOOST_AUTO_TEST_CASE(one_prompt_that_comes_several_times_at_once_is_computed_once) {
  auto l = limits();
  l.prefill_tokens = 512;
  Scheduler s(l);
  for (int i = 0; i < 4; ++i) s.admit(counting(300, 20));
  auto plan = s.plan();
  BOOST_REQUIRE(plan);
  BOOST_CHECK_EQUAL(plan->rows(), 300);
  s.commit(answer(*plan, 9));
  plan = s.plan();
  BOOST_REQUIRE(plan);
  BOOST_CHECK_EQUAL(plan->starts.size(), 3u);
  for (const auto& start : plan->starts) BOOST_CHECK_EQUAL(start.cached_tokens, 256u);
  BOOST_CHECK_EQUAL(s.kv_blocks_used(), 4u + 4u);  // the four full ones once, and each one's own
}

BOOST_AUTO_TEST_CASE(who_waits_for_a_prefix_goes_on_if_the_other_is_cancelled) {
  Scheduler s(limits());
  const auto first = s.admit(counting(300, 5));
  for (int i = 0; i < 2; ++i) s.admit(counting(300, 5));
  const auto chunk = s.plan();
  s.cancel(first);
  s.commit(answer(*chunk, 9));  // too late to be found
  const auto plan = s.plan();
  BOOST_REQUIRE(plan);
  BOOST_REQUIRE_EQUAL(plan->starts.size(), 1u);  // the second computes it now, for the third, too
  BOOST_CHECK_EQUAL(plan->starts[0].cached_tokens, 0u);
}

BOOST_AUTO_TEST_CASE(penalties_bring_the_cached_tokens_along) {
  Scheduler s(one_stage());
  run(s, counting(150, 1));
  auto penalised = counting(150, 1);
  penalised.sampling.repetition_penalty = 1.1f;
  s.admit(penalised);
  const auto plan = s.plan();
  BOOST_REQUIRE(plan);
  const auto& history = plan->starts.at(0).history;
  BOOST_REQUIRE_EQUAL(history.size(), 128u);
  BOOST_CHECK(std::ranges::equal(history, std::span(penalised.prompt).first(128)));
}

BOOST_AUTO_TEST_CASE(the_blocks_that_were_let_go_first_are_forgotten_first_and_beginnings_last) {
  auto l = one_stage();
  l.kv_blocks = 9;  // eight for requests
  Scheduler s(l);
  run(s, counting(256, 1, "a"));
  run(s, counting(256, 1, "b"));
  run(s, counting(64 * 3, 1, "c"));  // takes three of a's: its last ones
  BOOST_CHECK_EQUAL(s.kv_cache().forgotten(), 3u);
  BOOST_CHECK_EQUAL(run(s, counting(256, 1, "a")).cached_tokens, 64u);
}

BOOST_AUTO_TEST_CASE(an_epoch_finds_nothing_of_the_one_before) {
  Scheduler s(one_stage());
  run(s, counting(200, 1));
  s.begin_epoch(s.now);
  BOOST_CHECK_EQUAL(run(s, counting(200, 1)).cached_tokens, 0u);
}

// ---- guesses ----

namespace {

/// Answers each row of a sequence that repeats `period` tokens, as a model would that goes on with them.
gpu::StepResult periodic(const gpu::StepPlan& plan, int32_t period) {
  gpu::StepResult result{plan.epoch, plan.step, {}};
  for (const auto& s : plan.sequences) {
    if (s.sampled_rows == 0) continue;
    result.sequences.push_back({s.slot, {}});
    for (uint32_t i = s.sampled_rows; i > 0; --i) {
      const auto position = s.first_position + static_cast<uint32_t>(s.tokens.size()) - i;
      result.sequences.back().tokens.push_back({static_cast<int32_t>(position + 1) % period, -1.0f, {}});
    }
  }
  return result;
}

actors::NewSequence repeating(size_t prompt, uint32_t max_tokens, int32_t period, uint32_t drafts) {
  actors::NewSequence s;
  for (size_t i = 0; i < prompt; ++i) s.prompt.push_back(static_cast<int32_t>(i) % period);
  s.max_tokens = max_tokens;
  s.drafts = drafts;
  return s;
}

struct Spoken {
  std::vector<int32_t> tokens;
  size_t steps = 0;
};
Spoken speak(Scheduler& s, actors::NewSequence sequence, int32_t period) {
  Spoken spoken;
  s.admit(std::move(sequence));
  while (s.running() > 0) {
    const auto plan = s.plan();
    BOOST_REQUIRE(plan);
    ++spoken.steps;
    for (const auto& p : s.commit(periodic(*plan, period))) {
      BOOST_CHECK_EQUAL(p.first_index, spoken.tokens.size());
      for (const auto& token : p.tokens) spoken.tokens.push_back(token.id);
    }
  }
  return spoken;
}

}  // namespace

BOOST_AUTO_TEST_CASE(right_guesses_bring_several_tokens_a_step_and_the_same_ones) {
  Scheduler s(one_stage());
  const auto plain = speak(s, repeating(40, 60, 11, 0), 11);
  const auto guessed = speak(s, repeating(40, 60, 11, 4), 11);
  BOOST_TEST(guessed.tokens == plain.tokens, boost::test_tools::per_element());
  BOOST_CHECK_EQUAL(plain.steps, 60u);
  BOOST_CHECK_LE(guessed.steps, 16u);
  BOOST_CHECK_EQUAL(s.counters().accepted_tokens, 60 - guessed.steps);
}

BOOST_AUTO_TEST_CASE(wrong_guesses_are_written_over_and_change_nothing) {
  Scheduler s(one_stage());
  // The prompt repeats eleven tokens, the answer thirteen: where they differ, guesses from the prompt fail.
  const auto plain = speak(s, repeating(60, 60, 11, 0), 13);
  Scheduler t(one_stage());
  const auto guessed = speak(t, repeating(60, 60, 11, 4), 13);
  BOOST_TEST(guessed.tokens == plain.tokens, boost::test_tools::per_element());
  BOOST_CHECK_GT(t.counters().drafted_tokens, t.counters().accepted_tokens);
}

BOOST_AUTO_TEST_CASE(guesses_of_a_repetition_go_on_behind_the_tokens_that_there_are) {
  const auto guesses = [](std::vector<int32_t> tokens, uint32_t most) {
    return actors::PromptLookup(most).guess(tokens, most);
  };
  const auto same = [](const std::vector<int32_t>& own, const std::vector<int32_t>& expected) {
    BOOST_TEST(own == expected, boost::test_tools::per_element());
  };
  same(guesses({9, 1, 2, 3, 1, 2, 3}, 8), {1, 2, 3, 1, 2, 3, 1, 2});
  same(guesses({9, 4, 4, 4, 4}, 5), {4, 4, 4, 4, 4});
  same(guesses({1, 2, 3, 8, 9, 1, 2, 3}, 7), {8, 9, 1, 2, 3, 8, 9});
  same(guesses({1, 2, 3, 8, 9, 1, 2, 3}, 2), {8, 9});
  same(guesses({1, 2, 3, 8, 9, 1, 2, 3}, 0), {});
}

BOOST_AUTO_TEST_CASE(a_period_of_three_brings_as_many_tokens_a_step_as_a_longer_one) {
  Scheduler s(one_stage());
  const auto guessed = speak(s, repeating(40, 60, 3, 8), 3);
  BOOST_TEST(guessed.tokens == speak(s, repeating(40, 60, 3, 0), 3).tokens, boost::test_tools::per_element());
  BOOST_CHECK_LE(guessed.steps, 10u);
}

BOOST_AUTO_TEST_CASE(guesses_stop_where_rows_cost_more_than_they_bring) {
  actors::PromptLookup lookup(4);
  const actors::StepCost dear{.fixed_us = 10, .per_row_us = 1000}, cheap{.fixed_us = 5000, .per_row_us = 10};
  BOOST_CHECK_EQUAL(lookup.worth(1, dear), 0u);
  BOOST_CHECK_EQUAL(lookup.worth(1, cheap), 4u);
  for (int i = 0; i < 30; ++i) lookup.judge(4, 0);
  BOOST_CHECK_LT(lookup.chance(), 0.05);
  for (int i = 0; i < 100; ++i) lookup.judge(4, 4);
  BOOST_CHECK_GT(lookup.chance(), 0.95);
  BOOST_CHECK_EQUAL(lookup.worth(1, {.fixed_us = 500, .per_row_us = 500}), 4u);
  size_t tried = 0;
  for (int i = 0; i < 320; ++i) tried += lookup.worth(1, {.fixed_us = 0, .per_row_us = 1000});
  BOOST_CHECK_EQUAL(tried, 10u);  // now and then, in case that they would
}
