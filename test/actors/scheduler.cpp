// Scheduler: what runs in the next step, driven without actors, clocks or devices.

#include <boost/test/unit_test.hpp>
#include <deque>
#include <set>

#include "scheduler_rig.hpp"

using namespace scheduler_rig;

BOOST_AUTO_TEST_CASE(a_prompt_is_cut_into_chunks_that_follow_each_other_and_only_the_last_samples) {
  Scheduler s(limits());
  s.admit(request(300, 5));
  const auto a = s.plan(), b = s.plan(), c = s.plan();
  BOOST_REQUIRE(a && b && c);
  BOOST_CHECK_EQUAL(a->rows(), 128);
  BOOST_CHECK_EQUAL(b->sequences[0].first_position, 128u);
  BOOST_CHECK_EQUAL(c->rows(), 44);
  BOOST_CHECK_EQUAL(a->sequences[0].sampled_rows, 0u);
  BOOST_CHECK_EQUAL(b->sequences[0].sampled_rows, 0u);
  BOOST_CHECK_EQUAL(c->sequences[0].sampled_rows, 1u);
  BOOST_CHECK_EQUAL(a->starts.size(), 1u);
  BOOST_CHECK(b->starts.empty());
  BOOST_CHECK_EQUAL(a->block_changes.size() + b->block_changes.size() + c->block_changes.size(), 5u);
}

BOOST_AUTO_TEST_CASE(no_more_steps_are_in_flight_than_stages_and_slack) {
  Scheduler s(limits());
  s.admit(request(1000, 5));
  BOOST_CHECK(s.plan() && s.plan() && s.plan());
  BOOST_CHECK(!s.plan());
}

BOOST_AUTO_TEST_CASE(a_lone_sequence_is_planned_one_decode_ahead_and_ends_at_max_tokens) {
  Scheduler s(limits());
  const auto id = s.admit(request(3, 3));
  auto running = s.plan(), ahead = s.plan();
  BOOST_REQUIRE(running && ahead);
  BOOST_CHECK_EQUAL(ahead->sequences[0].first_position, 3u);
  BOOST_CHECK_EQUAL(ahead->sequences[0].tokens.at(0), gpu::token_fed_back);
  BOOST_CHECK_EQUAL(ahead->sequences[0].sampled_rows, 1u);
  BOOST_CHECK(!s.plan());
  auto progress = s.commit(answer(*running, 11));
  BOOST_REQUIRE_EQUAL(progress.size(), 1u);
  BOOST_CHECK_EQUAL(progress[0].id, id);
  BOOST_CHECK_EQUAL(progress[0].first_index, 0u);
  BOOST_CHECK(progress[0].finish == FinishReason::none);
  running = std::move(ahead);
  ahead = s.plan();
  BOOST_REQUIRE(ahead);
  BOOST_CHECK_EQUAL(ahead->sequences[0].first_position, 4u);
  progress = s.commit(answer(*running, 12));
  BOOST_CHECK_EQUAL(progress[0].first_index, 1u);
  BOOST_CHECK(!s.plan());  // the step in flight gives the last of three tokens
  progress = s.commit(answer(*ahead, 13));
  BOOST_CHECK_EQUAL(progress[0].first_index, 2u);
  BOOST_CHECK(progress[0].finish == FinishReason::length);
  BOOST_CHECK_EQUAL(s.running(), 0u);
  BOOST_CHECK_EQUAL(s.kv_blocks_used(), 0u);
}

BOOST_AUTO_TEST_CASE(what_was_planned_beyond_an_end_token_is_ignored) {
  Scheduler s(limits());
  s.admit(request(3, 50, {42}));
  const auto last = s.plan(), beyond = s.plan();
  BOOST_REQUIRE(last && beyond);
  BOOST_CHECK(s.commit(answer(*last, 42)).at(0).finish == FinishReason::stop);
  BOOST_CHECK_EQUAL(s.kv_blocks_used(), 0u);
  BOOST_CHECK(s.commit(answer(*beyond, 7)).empty());
  s.admit(request(3, 50));
  const auto next = s.plan();
  BOOST_REQUIRE_EQUAL(next->ends.size(), 1u);
  BOOST_CHECK_EQUAL(next->ends[0], beyond->sequences[0].slot);
}

BOOST_AUTO_TEST_CASE(a_token_that_is_known_is_planned_as_it_is) {
  auto l = limits();
  l.slack = 0;
  l.stages = 1;  // one step in flight: none is ahead
  Scheduler s(l);
  s.admit(request(3, 5));
  const auto plan = s.plan();
  BOOST_CHECK(!s.plan());
  s.commit(answer(*plan, 11));
  BOOST_CHECK_EQUAL(s.plan()->sequences[0].tokens.at(0), 11);
}

// A step that waited for a token although another could run would cost a turn of the whole pipeline.
BOOST_AUTO_TEST_CASE(a_step_waits_for_a_token_only_if_nothing_else_is_to_be_done) {
  Scheduler s(limits());
  for (int i = 0; i < 3; ++i) s.admit(request(1, 100));
  const auto prefill = s.plan();
  s.commit(answer(*prefill, 1));
  const auto a = s.plan(), b = s.plan(), c = s.plan();
  BOOST_REQUIRE(a && b && c);
  BOOST_CHECK_EQUAL(a->sequences.size(), 2u);
  BOOST_CHECK_EQUAL(b->sequences.size(), 1u);
  for (const auto* step : {&*a, &*b})
    for (const auto& q : step->sequences) BOOST_CHECK_EQUAL(q.tokens.at(0), 1);
  // The one behind them waits for the older of the two, while the other runs.
  BOOST_REQUIRE_EQUAL(c->sequences.size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    BOOST_CHECK_EQUAL(c->sequences[i].slot, a->sequences[i].slot);
    BOOST_CHECK_EQUAL(c->sequences[i].tokens.at(0), gpu::token_fed_back);
  }
  // Behind b and c there are as many steps as stages: b's token is there when d's turn comes, so it rides
  // along.
  s.commit(answer(*a, 2));
  s.admit(request(5, 100));
  const auto d = s.plan();
  BOOST_REQUIRE_EQUAL(d->sequences.size(), 2u);
  BOOST_CHECK_EQUAL(d->rows(), 6);
  BOOST_CHECK_EQUAL(d->sequences[0].slot, b->sequences[0].slot);
}

BOOST_AUTO_TEST_CASE(a_prompt_does_not_wait_for_the_token_of_the_step_right_before_it) {
  Scheduler s(limits());
  s.admit(request(1, 100));
  const auto prefill = s.plan(), ahead = s.plan();
  s.commit(answer(*prefill, 1));  // in flight: one step, which has not passed both stages
  s.admit(request(5, 100));
  const auto next = s.plan();
  BOOST_REQUIRE(ahead && next);
  BOOST_REQUIRE_EQUAL(next->sequences.size(), 1u);
  BOOST_CHECK_EQUAL(next->rows(), 5);
}

// One stage: a step of two rows costs hardly more than one of one row, so the two are never apart.
BOOST_AUTO_TEST_CASE(with_one_stage_one_step_holds_every_decode) {
  auto l = limits();
  l.stages = 1;
  l.sequences = 16;
  l.kv_blocks = 128;
  Scheduler s(l);
  std::deque<gpu::StepPlan> flying;
  size_t steps = 0, tokens = 0;
  for (int turn = 0; turn < 120; ++turn) {
    if (turn < 16) s.admit(request(1, 200));  // they come one by one, while others decode
    while (auto plan = s.plan()) flying.push_back(std::move(*plan));
    BOOST_REQUIRE(!flying.empty());
    const auto progress = s.commit(answer(flying.front(), 9));
    flying.pop_front();
    if (turn < 40) continue;
    ++steps;
    tokens += progress.size();
  }
  BOOST_CHECK_EQUAL(tokens, 16 * steps);
}

BOOST_AUTO_TEST_CASE(decodes_form_one_micro_batch_where_splitting_gains_nothing) {
  Scheduler s(limits());
  s.set_step_cost({.fixed_us = 5000, .per_row_us = 10});
  for (int i = 0; i < 4; ++i) s.admit(request(1, 100));
  std::deque<gpu::StepPlan> flying;
  for (int turn = 0; turn < 12; ++turn) {
    while (auto plan = s.plan()) flying.push_back(std::move(*plan));
    if (turn > 4)
      for (const auto& plan : flying) BOOST_CHECK_EQUAL(plan.sequences.size(), 4u);
    s.commit(answer(flying.front(), 9));
    flying.pop_front();
  }
}

BOOST_AUTO_TEST_CASE(splitting_pays_where_rows_cost_and_stages_would_idle) {
  using actors::micro_batches, actors::split_gain_min_apart;
  const actors::StepCost memory_bound{.fixed_us = 5000, .per_row_us = 10};
  const actors::StepCost compute_bound{.fixed_us = 100, .per_row_us = 1000};
  BOOST_CHECK_EQUAL(micro_batches(16, 1, compute_bound), 1u);
  BOOST_CHECK_EQUAL(micro_batches(16, 4, compute_bound), 6u);  // two to spare, or one that is late is missed
  BOOST_CHECK_EQUAL(micro_batches(2, 4, compute_bound), 2u);
  BOOST_CHECK_EQUAL(micro_batches(16, 4, memory_bound), 1u);
  BOOST_CHECK_EQUAL(micro_batches(256, 4, memory_bound), 4u);  // 2560 us of rows beside 5000
  BOOST_CHECK_EQUAL(micro_batches(16, 4, {}), 4u);             // not measured yet
  BOOST_CHECK_EQUAL(micro_batches(0, 4, memory_bound), 1u);
  // On cards of their own: even for nothing, since one step's hand-over is another's work.
  BOOST_CHECK_EQUAL(micro_batches(16, 4, memory_bound, split_gain_min_apart), 4u);
  BOOST_CHECK_EQUAL(micro_batches(16, 4, {.fixed_us = 5000}, split_gain_min_apart), 4u);
  BOOST_CHECK_EQUAL(micro_batches(3, 4, {.fixed_us = 5000}, split_gain_min_apart), 3u);
}

// P = 4, and waiting takes 6 % of 4 steps.
BOOST_AUTO_TEST_CASE(spare_micro_batches_cost_no_more_than_they_bring) {
  using actors::micro_batches, actors::micro_batches_max, actors::StepCost;
  const auto of = [](float fixed_us, float per_row_us, size_t decodes) {
    return micro_batches(decodes, 4, StepCost{fixed_us, per_row_us});
  };
  BOOST_CHECK_EQUAL(of(1000, 30, 400), 4u);  // a step of 100 rows takes 4,000 us, 6 % of four are 960
  BOOST_CHECK_EQUAL(of(1000, 40, 400), 5u);  // 5,000 us, 1,200
  BOOST_CHECK_EQUAL(of(1000, 80, 400), 6u);  // 9,000 us, 2,160
  BOOST_CHECK_EQUAL(of(1000, 9000, 400), 6u);
  BOOST_CHECK_EQUAL(of(1000, 9000, 5), 5u);
  BOOST_CHECK_EQUAL(of(0, 1, 400), 6u);
  BOOST_CHECK_EQUAL(of(-1e-9f, 1, 400), 6u);
  BOOST_CHECK_EQUAL(micro_batches_max(1), 1u);
  BOOST_CHECK_EQUAL(micro_batches_max(2), 3u);
  BOOST_CHECK_EQUAL(micro_batches_max(64), 96u);
}

BOOST_AUTO_TEST_CASE(as_many_more_steps_are_in_flight_as_there_are_more_micro_batches) {
  auto l = limits();
  l.sequences = 8;
  Scheduler s(l);
  for (int i = 0; i < 8; ++i) s.admit(request(1, 100));
  std::deque<gpu::StepPlan> flying;
  const auto turn = [&] {
    while (auto plan = s.plan()) flying.push_back(std::move(*plan));
    const size_t in_flight = flying.size();
    s.commit(answer(flying.front(), 9));
    flying.pop_front();
    return in_flight;
  };
  for (int i = 0; i < 8; ++i) BOOST_CHECK_LE(turn(), 3u);  // two micro-batches, and one planned ahead
  s.set_step_cost({.fixed_us = 100, .per_row_us = 1000});
  for (int i = 0; i < 8; ++i) turn();
  for (int i = 0; i < 8; ++i) {
    BOOST_CHECK_EQUAL(turn(), 4u);
    for (const auto& plan : flying) BOOST_CHECK_LE(plan.rows(), 3);
  }
}

BOOST_AUTO_TEST_CASE(a_prompt_alone_is_cut_so_that_no_stage_waits_long_for_its_part) {
  auto l = limits();
  l.prefill_tokens = 512;
  Scheduler s(l);
  s.set_step_cost({.fixed_us = 3000, .per_row_us = 500});
  s.admit(request(600, 5));
  BOOST_CHECK_EQUAL(s.plan()->rows(), 60);  // 11 steps of 33 ms; one of 303 ms takes two stages 606
  BOOST_CHECK_EQUAL(s.plan()->rows(), 60);
  using actors::chunk_rows, actors::StepCost;
  BOOST_CHECK_EQUAL(chunk_rows(600, 1, StepCost{.fixed_us = 3000, .per_row_us = 500}), 600u);
  BOOST_CHECK_EQUAL(chunk_rows(600, 2, StepCost{.fixed_us = 3000}), 600u);
  BOOST_CHECK_EQUAL(chunk_rows(600, 7, StepCost{.fixed_us = 3000, .per_row_us = 500}), 24u);
  BOOST_CHECK_EQUAL(chunk_rows(600, 2, StepCost{.fixed_us = 1e9, .per_row_us = 1e-9f}), 600u);
}

BOOST_AUTO_TEST_CASE(the_cost_of_a_step_is_found_from_steps_of_several_sizes) {
  actors::StepCostMeter meter;
  BOOST_CHECK(!meter.cost().measured());
  for (int i = 0; i < 50; ++i) meter.add(4, 3400);
  BOOST_CHECK_CLOSE(meter.cost().of(4), 3400.0f, 0.1f);  // steps of one size tell no more
  BOOST_CHECK_EQUAL(meter.cost().per_row_us, 0.0f);
  for (int i = 0; i < 200; ++i) meter.add(1 + i % 16, 3000 + 100.0 * (1 + i % 16));
  BOOST_CHECK_CLOSE(meter.cost().fixed_us, 3000.0f, 1.0f);
  BOOST_CHECK_CLOSE(meter.cost().per_row_us, 100.0f, 2.0f);
  for (int i = 0; i < 2000; ++i) meter.add(1 + i % 16, 700 + 5.0 * (1 + i % 16));  // older ones fade
  BOOST_CHECK_CLOSE(meter.cost().of(1), 705.0f, 1.0f);
  for (int i = 0; i < 2000; ++i) meter.add(8, 740);  // of one size: what a row adds stays known
  BOOST_CHECK_CLOSE(meter.cost().per_row_us, 5.0f, 1.0f);
  BOOST_CHECK_CLOSE(meter.cost().of(8), 740.0f, 0.1f);
}

BOOST_AUTO_TEST_CASE(what_would_start_at_once_does_not_wait) {
  auto l = limits();
  l.sequences = 8;
  l.queue = 2;
  Scheduler s(l);
  for (int i = 0; i < 10; ++i) {  // no step between them: they all come at the same moment
    BOOST_REQUIRE_MESSAGE(!s.full(), "refused number " << i);
    s.admit(request(3, 5));
  }
  BOOST_CHECK_EQUAL(s.running(), 8u);
  BOOST_CHECK_EQUAL(s.waiting(), 2u);
  BOOST_CHECK(s.full());
}

BOOST_AUTO_TEST_CASE(a_queue_of_none_still_takes_as_many_as_may_run) {
  auto l = limits();
  l.sequences = 2;
  l.queue = 0;
  l.kv_blocks = 4;  // three for requests
  Scheduler s(l);
  s.admit(request(100, 60));
  s.admit(request(100, 60));
  BOOST_CHECK_EQUAL(s.running(), 1u);  // there is a place for the other one, but not the blocks
  BOOST_CHECK_EQUAL(s.waiting(), 1u);
  BOOST_CHECK(s.full());
}

BOOST_AUTO_TEST_CASE(a_row_without_a_token_ends_its_sequence_alone) {
  auto l = limits();
  l.stages = 1;
  Scheduler s(l);
  const auto bad = s.admit(request(3, 50)), good = s.admit(request(3, 50));
  auto plan = s.plan();
  const auto ahead = s.plan();
  BOOST_REQUIRE(plan && ahead);
  BOOST_REQUIRE_EQUAL(plan->sequences.size(), 2u);
  auto result = answer(*plan, 5);
  result.sequences[0].tokens[0].fault = gpu::RowFault::not_finite;
  const auto progress = s.commit(result);
  BOOST_REQUIRE_EQUAL(progress.size(), 2u);
  BOOST_CHECK_EQUAL(progress[0].id, bad);
  BOOST_CHECK(progress[0].finish == FinishReason::failed);
  BOOST_CHECK(progress[0].fault == gpu::RowFault::not_finite);
  BOOST_CHECK(progress[0].tokens.empty());
  BOOST_CHECK_EQUAL(progress[1].id, good);
  BOOST_CHECK(progress[1].finish == FinishReason::none);
  BOOST_CHECK_EQUAL(s.running(), 1u);
  const auto later = s.commit(answer(*ahead, 6));  // both were planned ahead: the bad one's row is ignored
  BOOST_REQUIRE_EQUAL(later.size(), 1u);
  BOOST_CHECK_EQUAL(later[0].id, good);
}

BOOST_AUTO_TEST_CASE(an_end_token_finishes_with_stop_and_is_counted) {
  Scheduler s(limits());
  s.admit(request(3, 50, {42}));
  const auto plan = s.plan();
  const auto progress = s.commit(answer(*plan, 42));
  BOOST_CHECK(progress[0].finish == FinishReason::stop);
  BOOST_CHECK_EQUAL(progress[0].tokens.size(), 1u);
}

BOOST_AUTO_TEST_CASE(decodes_are_dealt_over_the_stages_so_that_each_has_work) {
  Scheduler s(limits());
  for (int i = 0; i < 4; ++i) s.admit(request(1, 100));
  auto first = s.plan();
  BOOST_REQUIRE(first);
  s.commit(answer(*first, 1));
  const auto a = s.plan(), b = s.plan();
  BOOST_REQUIRE(a && b);
  BOOST_CHECK_EQUAL(a->sequences.size(), 2u);
  BOOST_CHECK_EQUAL(b->sequences.size(), 2u);
  std::set<uint32_t> slots;
  for (const auto& q : a->sequences) slots.insert(q.slot);
  for (const auto& q : b->sequences) slots.insert(q.slot);
  BOOST_CHECK_EQUAL(slots.size(), 4u);
}

BOOST_AUTO_TEST_CASE(a_cancelled_sequence_frees_its_blocks_and_its_late_result_is_ignored) {
  Scheduler s(limits());
  const auto id = s.admit(request(10, 10));
  const auto plan = s.plan();
  s.cancel(id);
  BOOST_CHECK_EQUAL(s.kv_blocks_used(), 0u);
  BOOST_CHECK(s.commit(answer(*plan, 5)).empty());
  s.admit(request(10, 10));
  const auto next = s.plan();
  BOOST_REQUIRE_EQUAL(next->ends.size(), 1u);
  BOOST_CHECK_EQUAL(next->ends[0], plan->sequences[0].slot);
  BOOST_CHECK_NE(next->sequences[0].slot, plan->sequences[0].slot);
}

BOOST_AUTO_TEST_CASE(a_canary_runs_beside_a_full_house) {
  auto l = limits();
  l.kv_blocks = 5;
  Scheduler s(l);
  s.admit(request(200, 57));  // four blocks: all but the canary's
  s.admit(request(10, 10));   // must wait
  s.request_canary();
  const auto plan = s.plan();
  BOOST_REQUIRE(plan);
  BOOST_CHECK_EQUAL(s.waiting(), 1u);
  BOOST_REQUIRE_EQUAL(plan->sequences.size(), 2u);
  const auto progress = s.commit(answer(*plan, 3));
  BOOST_REQUIRE_EQUAL(progress.size(), 1u);
  BOOST_CHECK(progress[0].canary && progress[0].finish == FinishReason::length);
}

BOOST_AUTO_TEST_CASE(what_can_never_run_is_refused_with_the_numbers) {
  Scheduler s(limits());
  BOOST_CHECK(s.refuse(request(0, 1)));
  BOOST_CHECK(s.refuse(request(1, 0)));
  BOOST_CHECK(s.refuse(request(1000, 25)).value().find("1024") != std::string::npos);
  BOOST_CHECK(!s.refuse(request(1000, 24)));
  auto alien = request(1, 1);
  alien.prompt[0] = 100;
  BOOST_CHECK(s.refuse(alien));
  auto wild = request(1, 1);
  wild.sampling.temperature = -1;
  BOOST_CHECK(s.refuse(wild));
  auto l = limits();
  l.kv_blocks = 4;
  BOOST_CHECK(Scheduler(l).refuse(request(200, 60)).value().find("kv_tokens") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(a_result_that_fits_no_plan_throws) {
  Scheduler s(limits());
  s.admit(request(3, 5));
  const auto plan = s.plan();
  auto other = answer(*plan, 1);
  other.step = 9;
  BOOST_CHECK_THROW(s.commit(other), std::runtime_error);
  auto impossible = answer(*plan, 100);
  BOOST_CHECK_THROW(s.commit(impossible), std::runtime_error);
}

BOOST_AUTO_TEST_CASE(it_says_how_many_rows_steps_had_and_which_of_those_in_flight_sample) {
  Scheduler s(limits());
  s.request_canary();
  s.commit(answer(*s.plan(), 1));
  BOOST_CHECK_EQUAL(s.rows_per_step(), 0);  // a canary is no request
  s.admit(request(130, 100));
  const auto chunk = s.plan(), end = s.plan();
  BOOST_REQUIRE(chunk && end);
  BOOST_CHECK_EQUAL(chunk->rows(), 128);
  BOOST_CHECK_EQUAL(s.micro_batches_in_flight(), 1u);
  s.commit(answer(*chunk, 1));
  BOOST_CHECK_EQUAL(s.rows_per_step(), 128);
  s.commit(answer(*end, 1));
  float before = s.rows_per_step();
  BOOST_CHECK_LT(before, 128);
  for (int i = 0; i < 90; ++i) {
    const auto decode = s.plan();
    BOOST_REQUIRE(decode);
    s.commit(answer(*decode, 1));
    BOOST_REQUIRE_LT(s.rows_per_step(), before);
    before = s.rows_per_step();
  }
  BOOST_CHECK_LT(before, 3);
}
