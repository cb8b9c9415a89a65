// Pipeline: stages that are lost, and what goes on in the epoch that follows.

#include "pipeline_rig.hpp"

using namespace pipeline_rig;

BOOST_FIXTURE_TEST_CASE(a_lost_stage_is_replaced_and_its_requests_go_on_where_they_were, Fixture) {
  start(30'000, 2, 60'000);  // its replacement is asked for at once, and not again within this test
  link_stage(0, 11);
  link_stage(1, 12);
  bring_up();
  ask(9, 3);
  const auto first = next_plan(), ahead = next_plan();
  const int64_t prompt = first.rows();
  answer(first, 42);
  BOOST_CHECK_EQUAL(answered(), 9u);
  stages[0].reset();  // its mailbox ends, as a remote handle does when the link goes down
  const auto order_frame = next<msg::ReplaceStage>(node);
  const msg::Reading order(order_frame);
  BOOST_CHECK_EQUAL(order->getInstance(), 0u);
  BOOST_CHECK_EQUAL(order->getIncarnation(), 11u);
  answer(ahead, 5);  // of the epoch that is over: ignored
  ask(10, 1);        // waits for the stages
  link_stage(0, 13);
  for (uint32_t i = 0; i < 2; ++i) {
    BOOST_REQUIRE_EQUAL(msg::Reading(next<msg::Assign>(*stages[i]))->getEpoch(), 2u);
    report(i, msg::Health::READY, 2);
  }
  const auto replay = next_plan();
  BOOST_CHECK_EQUAL(replay.step, 0u);
  BOOST_CHECK_EQUAL(replay.rows(), 1 + prompt + 1);  // the canary; the prompt and what came behind it
  answer(replay, 43);
  const auto frame = next<msg::StepTokens>(gateway);
  const msg::Reading step(frame);
  BOOST_REQUIRE_EQUAL(step->getAnswers().size(), 1u);
  BOOST_CHECK_EQUAL(step->getAnswers()[0].getRequest(), 9u);
  BOOST_CHECK_EQUAL(step->getAnswers()[0].getFirstIndex(), 1u);
  answer(next_plan(), 44);
  BOOST_CHECK_EQUAL(answered(), 9u);  // its last one
  answer(next_plan(), 45);
  BOOST_CHECK_EQUAL(answered(), 10u);
}

BOOST_FIXTURE_TEST_CASE(before_it_ever_served_a_pipeline_takes_no_request, Fixture) {
  start();
  link_stage(0, 11);
  ask(9);
  const auto frame = next<msg::Rejected>(gateway);
  BOOST_CHECK(msg::Reading(frame)->getReason() == msg::Rejected::Reason::NOT_READY);
}

BOOST_FIXTURE_TEST_CASE(a_request_that_ran_whenever_a_stage_was_lost_fails_in_the_end, Fixture) {
  start(30'000, 2, 60'000);
  link_stage(0, 11);
  link_stage(1, 12);
  bring_up();
  ask(9, 50);
  next_plan();
  for (uint64_t epoch = 2; epoch <= 4; ++epoch) {
    stages[0].reset();
    next<msg::ReplaceStage>(node);
    link_stage(0, 11 + epoch);
    for (uint32_t i = 0; i < 2; ++i) {
      while (msg::Reading(next<msg::Assign>(*stages[i]))->getEpoch() != epoch) continue;
      report(i, msg::Health::READY, epoch);
    }
    next_plan();
  }
  stages[0].reset();
  const auto frame = next<msg::Finished>(gateway);
  const msg::Reading failed(frame);
  BOOST_CHECK(failed->getReason() == msg::Finished::Reason::FAILED);
  BOOST_CHECK_EQUAL(failed->getRequest(), 9u);
  BOOST_CHECK(std::string(failed->getMessage().cStr()).find("pipeline.replays_max") != std::string::npos);
}

BOOST_FIXTURE_TEST_CASE(who_takes_the_place_of_the_middle_stage_is_linked_with_both_others, Fixture) {
  start(30'000, 3, 60'000);
  for (uint32_t i = 0; i < 3; ++i) link_stage(i, 11 + i);
  for (uint32_t i = 0; i < 3; ++i) next<msg::Assign>(*stages[i]);
  stages[1].reset();
  BOOST_CHECK_EQUAL(msg::Reading(next<msg::ReplaceStage>(node))->getInstance(), 1u);
  link_stage(1, 14, 2001);
  for (const auto& [stage, next_port] : {std::pair{0, 2001}, {1, 1002}, {2, 1000}}) {
    const auto frame = next<msg::Assign>(*stages[static_cast<size_t>(stage)]);
    const msg::Reading assign(frame);
    BOOST_CHECK_EQUAL(assign->getEpoch(), 2u);
    BOOST_CHECK_EQUAL(assign->getNextHost().cStr(), "127.0.0.1");
    BOOST_CHECK_EQUAL(assign->getNextPort(), next_port);
  }
}

BOOST_FIXTURE_TEST_CASE(a_result_that_cannot_be_costs_the_last_stage_its_place, Fixture) {
  start();
  link_stage(0, 11);
  link_stage(1, 12);
  bring_up();
  ask(9);
  answer(next_plan(), 100);  // outside the vocabulary
  BOOST_CHECK_EQUAL(msg::Reading(next<msg::ReplaceStage>(node))->getInstance(), 1u);
}

BOOST_FIXTURE_TEST_CASE(a_stage_that_owes_a_step_too_long_counts_as_hung, Fixture) {
  start(200);
  link_stage(0, 11);
  link_stage(1, 12);
  bring_up();
  ask(9);
  next_plan();
  report(0, msg::Health::READY, 1, 250);
  report(1, msg::Health::READY, 1, 0);
  const auto frame = next<msg::ReplaceStage>(node);
  const msg::Reading order(frame);
  BOOST_CHECK_EQUAL(order->getInstance(), 0u);
  BOOST_CHECK(std::string(order->getReason()).find("step_timeout_ms") != std::string::npos);
}

BOOST_FIXTURE_TEST_CASE(a_replacement_that_does_not_come_is_asked_for_again, Fixture) {
  start();
  link_stage(0, 11);
  link_stage(1, 12);
  bring_up();
  stages[1].reset();
  for (int times = 0; times < 3; ++times) {
    const auto frame = next<msg::ReplaceStage>(node);
    BOOST_CHECK_EQUAL(msg::Reading(frame)->getInstance(), 1u);
    BOOST_CHECK_EQUAL(msg::Reading(frame)->getIncarnation(), 12u);
  }
}

BOOST_FIXTURE_TEST_CASE(an_answer_goes_on_behind_what_its_session_has, Fixture) {
  start();
  link_stage(0, 11);
  link_stage(1, 12);
  bring_up();
  ask_on(77, {40, 41, 42}, 5);
  BOOST_CHECK_EQUAL(msg::Reading(next<msg::Accepted>(gateway))->getAttempt(), 2u);
  const auto plan = next_plan();
  BOOST_CHECK_EQUAL(plan.starts.at(0).prompt_tokens, 3u);
  BOOST_CHECK((plan.sequences.at(0).tokens == std::vector<int32_t>{7, 0, 0, 40, 41, 42}));
  answer(plan, 43);
  {
    const auto frame = next<msg::StepTokens>(gateway);
    const msg::Reading step(frame);
    const auto tokens = step->getAnswers()[0];
    BOOST_CHECK_EQUAL(tokens.getAttempt(), 2u);
    BOOST_CHECK_EQUAL(tokens.getFirstIndex(), 3u);
    BOOST_CHECK(tokens.hasFacts());  // its first tokens of this attempt
  }
  answer(next_plan(), 44);
  const auto frame = next<msg::StepTokens>(gateway);
  const msg::Reading step(frame);
  BOOST_CHECK_EQUAL(step->getAnswers()[0].getFirstIndex(), 4u);
  BOOST_REQUIRE_EQUAL(step->getFinished().size(), 1u);
  BOOST_CHECK_EQUAL(step->getFinished()[0].getTokens(), 5u);
}

BOOST_FIXTURE_TEST_CASE(a_later_attempt_takes_the_place_of_the_one_before_and_an_earlier_one_does_not,
                        Fixture) {
  start(30'000, 2, 100, 16, 1, 2);
  link_stage(0, 11);
  link_stage(1, 12);
  bring_up();
  ask(77);
  BOOST_CHECK_EQUAL(msg::Reading(next<msg::Accepted>(gateway))->getAttempt(), 1u);
  next_plan();
  ask_on(77, {40}, 5);
  BOOST_CHECK_EQUAL(msg::Reading(next<msg::Accepted>(gateway))->getAttempt(), 2u);
  ask(77);
  ask(78);
  BOOST_CHECK_EQUAL(msg::Reading(next<msg::Accepted>(gateway))->getRequest(), 78u);
  BOOST_CHECK_EQUAL(counted("convoy_requests_admitted_total"), 3);
}

BOOST_FIXTURE_TEST_CASE(a_head_that_takes_over_raises_its_epoch_above_those_of_the_one_before, Fixture) {
  start();
  link_stage(0, 11, 1000, 7);
  link_stage(1, 12, 1001, 9);  // this one had heard more
  for (uint32_t i = 0; i < 2; ++i)
    BOOST_CHECK_EQUAL(msg::Reading(next<msg::Assign>(*stages[i]))->getEpoch(), 10u);
}

BOOST_FIXTURE_TEST_CASE(why_stages_were_lost_is_counted_and_said, Fixture) {
  start(200);
  link_stage(0, 11);
  link_stage(1, 12);
  bring_up();
  stages[0].reset();
  next<msg::ReplaceStage>(node);
  BOOST_CHECK_EQUAL(counted("convoy_stages_lost_total", "ended"), 1);
  link_stage(0, 13);
  for (;;) {
    const auto frame = next<msg::Assign>(*stages[0]);
    const msg::Reading assign(frame);
    if (assign->getEpoch() != 2) continue;
    BOOST_CHECK_EQUAL(assign->getKvBlocksBefore(), 12u);  // the other stage's
    break;
  }
  for (uint32_t i = 0; i < 2; ++i) report(i, msg::Health::READY, 2);
  answer(next_plan(), 3);
  ask(9);
  next_plan();
  report(1, msg::Health::READY, 2, 100);  // slow, but not too late yet
  for (;;) {
    const auto frame = next<msg::PipelineState>(gateway);
    if (std::string(msg::Reading(frame)->getStages()[1].getReason()).starts_with("slow: ")) break;
  }
  BOOST_CHECK_EQUAL(counted("convoy_stage_slow_steps_total"), 1);
  report(1, msg::Health::READY, 2, 250);
  next<msg::ReplaceStage>(node);
  BOOST_CHECK_EQUAL(counted("convoy_stages_lost_total", "hung"), 1);
  for (;;) {
    const auto frame = next<msg::PipelineState>(gateway);
    if (std::string(msg::Reading(frame)->getStages()[1].getReason()).starts_with("hung: ")) break;
  }
}
