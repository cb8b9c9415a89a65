// Pipeline: what its actor says to gateway, stages and node, with mailboxes in the test in place of all of
// them.

#include <limits>
#include <set>
#include <thread>

#include "actors/config/placement.hpp"
#include "pipeline_rig.hpp"

using namespace pipeline_rig;

BOOST_AUTO_TEST_CASE(layers_are_divided_evenly_where_half_of_the_head_counts) {
  const auto counts = [](int64_t layers, uint32_t stages, double head_layers) {
    std::vector<int64_t> counts;
    int64_t first = 0;
    for (const model::LayerRange& range : stage_layers(layers, stages, head_layers)) {
      BOOST_REQUIRE_EQUAL(range.first, first);
      counts.push_back(range.count());
      first = range.last + 1;
    }
    BOOST_REQUIRE_EQUAL(first, layers);
    return counts;
  };
  using Counts = std::vector<int64_t>;
  BOOST_TEST(counts(30, 1, 8) == Counts({30}), boost::test_tools::per_element());
  BOOST_TEST(counts(30, 2, 0) == Counts({15, 15}), boost::test_tools::per_element());
  BOOST_TEST(counts(5, 2, 0) == Counts({3, 2}), boost::test_tools::per_element());
  BOOST_TEST(counts(30, 2, 8) == Counts({17, 13}), boost::test_tools::per_element());
  BOOST_TEST(counts(28, 4, 4) == Counts({8, 7, 8, 5}), boost::test_tools::per_element());
  BOOST_TEST(counts(3, 3, 50) == Counts({1, 1, 1}), boost::test_tools::per_element());  // each has one
  BOOST_TEST(counts(4, 2, 50) == Counts({3, 1}), boost::test_tools::per_element());
}

BOOST_FIXTURE_TEST_CASE(stages_are_assigned_when_all_are_there_and_ready_means_a_token_came_through,
                        Fixture) {
  start();
  link_stage(0, 11);
  link_stage(1, 12);
  const auto first_frame = next<msg::Assign>(*stages[0]), last_frame = next<msg::Assign>(*stages[1]);
  const msg::Reading first(first_frame), last(last_frame);
  BOOST_CHECK_EQUAL(first->getLastLayer(), 2u);
  BOOST_CHECK_EQUAL(first->getNextPort(), 1001u);
  BOOST_CHECK_EQUAL(first->getNextHost().cStr(), "127.0.0.1");
  BOOST_CHECK_EQUAL(last->getFirstLayer(), 3u);
  BOOST_CHECK_EQUAL(last->getNextPort(), 1000u);      // the first: it feeds tokens back
  BOOST_CHECK_EQUAL(last->getNextHost().size(), 0u);  // which connects to it, being its neighbour
  report(0, msg::Health::READY, 1);
  report(1, msg::Health::READY, 1);
  const auto canary = next_plan();
  BOOST_CHECK(!msg::Reading(next<msg::PipelineState>(gateway))->getReady());
  answer(canary, 3);
  while (!msg::Reading(next<msg::PipelineState>(gateway))->getReady()) continue;
}

BOOST_FIXTURE_TEST_CASE(what_it_says_of_itself_counts_restarts_and_blocks, Fixture) {
  start();
  link_stage(0, 11);
  link_stage(1, 12);
  bring_up();
  link_stage(1, 13);  // another process in the place of the first
  for (;;) {
    const auto frame = next<msg::PipelineState>(gateway);
    const msg::Reading state(frame);
    BOOST_CHECK_EQUAL(state->getKvBlocksTotal(), 16u);
    BOOST_CHECK_LE(state->getKvBlocksUsed(), 1u);  // the canary's
    BOOST_CHECK_EQUAL(state->getStages()[0].getRestarts(), 0u);
    if (state->getStages()[1].getRestarts() == 1) break;
    BOOST_CHECK_EQUAL(state->getStages()[1].getRestarts(), 0u);
  }
}

BOOST_FIXTURE_TEST_CASE(the_stage_with_fewest_blocks_says_how_many_there_are_if_they_are_to_be_as_many_as_fit,
                        Fixture) {
  start(30'000, 2, 100, 0);
  link_stage(0, 11);
  link_stage(1, 12);
  for (uint32_t i = 0; i < 2; ++i)
    BOOST_CHECK_EQUAL(msg::Reading(next<msg::Assign>(*stages[i]))->getKvBlocks(), 0u);
  for (uint32_t i = 0; i < 2; ++i) report(i, msg::Health::READY, 1);
  answer(next_plan(), 3);
  for (;;) {
    const auto frame = next<msg::PipelineState>(gateway);
    const msg::Reading state(frame);
    if (!state->getReady()) continue;
    BOOST_CHECK_EQUAL(state->getKvBlocksTotal(), 12u);
    break;
  }
}

BOOST_FIXTURE_TEST_CASE(a_request_is_accepted_answered_token_by_token_and_finished, Fixture) {
  start();
  link_stage(0, 11);
  link_stage(1, 12);
  bring_up();
  ask(77, 2);
  BOOST_CHECK_EQUAL(msg::Reading(next<msg::Accepted>(gateway))->getRequest(), 77u);
  for (uint32_t i = 0; i < 2; ++i) {
    answer(next_plan(), static_cast<int32_t>(40 + i));
    const auto frame = next<msg::StepTokens>(gateway);
    const msg::Reading step(frame);
    const auto tokens = step->getAnswers()[0];
    BOOST_CHECK_EQUAL(tokens.getFirstIndex(), i);
    BOOST_CHECK_EQUAL(tokens.getAttempt(), 1u);
    BOOST_CHECK_EQUAL(tokens.getTokens()[0].getId(), static_cast<int32_t>(40 + i));
    BOOST_REQUIRE_EQUAL(step->getFinished().size(), i);
    if (i == 0) continue;
    const auto finished = step->getFinished()[0];
    BOOST_CHECK(finished.getReason() == msg::Finished::Reason::LENGTH);
    BOOST_CHECK_EQUAL(finished.getTokens(), 2u);
    BOOST_CHECK_EQUAL(finished.getFacts().getCachedTokens(), 0u);
    BOOST_CHECK_EQUAL(finished.getFacts().getPreemptions(), 0u);
  }
}

BOOST_FIXTURE_TEST_CASE(a_step_of_many_answers_is_one_frame, Fixture) {
  start(30'000, 2, 100, 16, 1, 4);
  link_stage(0, 11);
  link_stage(1, 12);
  bring_up();
  for (uint64_t number = 1; number <= 4; ++number) ask(number, number == 4 ? 2 : 9);
  std::map<uint64_t, uint32_t> tokens;  // of each request
  std::set<uint64_t> finished;
  size_t frames = 0;
  while (tokens[1] < 5) {
    answer(next_plan(), 42);
    const auto frame = next<msg::StepTokens>(gateway);
    const msg::Reading step(frame);
    ++frames;
    for (const auto part : step->getAnswers()) {
      BOOST_CHECK_EQUAL(part.getFirstIndex(), tokens[part.getRequest()]);
      tokens[part.getRequest()] += part.getTokens().size();
    }
    for (const auto end : step->getFinished()) {
      BOOST_CHECK_EQUAL(end.getTokens(), tokens[end.getRequest()]);
      finished.insert(end.getRequest());
    }
  }
  BOOST_CHECK(finished == std::set<uint64_t>{4});
  BOOST_CHECK_EQUAL(tokens[4], 2u);
  uint32_t all = 0;
  for (const auto& [request, count] : tokens) all += count;
  BOOST_CHECK_LT(frames, all);
}

BOOST_FIXTURE_TEST_CASE(only_whose_deadline_passed_fails, Fixture) {
  start(30'000, 2, 100, 16, 1, 4);
  link_stage(0, 11);
  link_stage(1, 12);
  bring_up();
  const auto ask_until = [&](uint64_t number, uint64_t deadline_ms) {
    msg::FrameBuilder<msg::Generate> frame;
    frame->initReplyTo().setNode("node1");
    frame->getReplyTo().setRequest(number);
    frame->initTokens(3);
    frame->setMaxTokens(5);
    frame->setDeadlineMs(deadline_ms);
    mail(pipeline, std::move(frame).finish());
  };
  ask_until(1, std::numeric_limits<uint64_t>::max());
  ask_until(2, 2);
  ask_until(3, 0);  // none
  ask_until(4, 1);
  for (const uint64_t late : {4, 2}) {  // the earliest first
    const auto frame = next<msg::Finished>(gateway);
    const msg::Reading failed(frame);
    BOOST_CHECK_EQUAL(failed->getRequest(), late);
    BOOST_CHECK(failed->getReason() == msg::Finished::Reason::FAILED);
    BOOST_CHECK(std::string(failed->getMessage()).find("request_timeout_ms") != std::string::npos);
  }
  for (;;) {
    const auto frame = next<msg::PipelineState>(gateway);
    const msg::Reading state(frame);
    if (state->getRunning() + state->getWaiting() == 2) break;
  }
}

BOOST_FIXTURE_TEST_CASE(only_who_has_the_same_salt_finds_what_a_prompt_left, Fixture) {
  start();
  link_stage(0, 11);
  link_stage(1, 12);
  bring_up();
  uint64_t number = 1;
  for (const auto& [salt, cached] :
       std::vector<std::pair<const char*, uint32_t>>{{"ann", 0}, {"bob", 0}, {"ann", 128}}) {
    BOOST_TEST_CONTEXT(salt << " finds " << cached) {
      msg::FrameBuilder<msg::Generate> frame;
      frame->initReplyTo().setNode("node1");
      frame->getReplyTo().setRequest(number++);
      frame->initTokens(150);
      frame->setMaxTokens(2);
      frame->setSalt(salt);
      mail(pipeline, std::move(frame).finish());
      answer(next_plan(), 42);
      const auto first = next<msg::StepTokens>(gateway);
      const msg::Reading begin(first);
      const auto tokens = begin->getAnswers()[0];
      BOOST_REQUIRE(tokens.hasFacts());  // with the first tokens: a stop string may end the answer there
      BOOST_CHECK_EQUAL(tokens.getFacts().getCachedTokens(), cached);
      answer(next_plan(), 43);
      const auto last = next<msg::StepTokens>(gateway);
      const msg::Reading step(last);
      BOOST_CHECK(!step->getAnswers()[0].hasFacts());
      BOOST_CHECK_EQUAL(step->getFinished()[0].getFacts().getCachedTokens(), cached);
    }
  }
}

BOOST_FIXTURE_TEST_CASE(of_those_that_wait_the_higher_priority_goes_first, Fixture) {
  start(30'000, 2, 100, 16, 2);
  link_stage(0, 11);
  link_stage(1, 12);
  bring_up();
  ask(1, 1, "someone", 9);
  ask(2, 1, "someone", 5);  // waits
  ask(3, 1, "someone", 6);  // waits, and is more urgent
  answer(next_plan(), 40);
  BOOST_CHECK_EQUAL(answered(), 1u);
  answer(next_plan(), 40);
  BOOST_CHECK_EQUAL(answered(), 3u);
}

BOOST_FIXTURE_TEST_CASE(a_priority_that_does_not_exist_is_refused, Fixture) {
  start();
  link_stage(0, 11);
  link_stage(1, 12);
  bring_up();
  ask(1, 1, "someone", 10);
  const auto frame = next<msg::Rejected>(gateway);
  BOOST_CHECK(msg::Reading(frame)->getReason() == msg::Rejected::Reason::INVALID);
}

BOOST_FIXTURE_TEST_CASE(what_cannot_be_taken_is_rejected_with_its_reason, Fixture) {
  start();
  ask(1);
  BOOST_CHECK(msg::Reading(next<msg::Rejected>(gateway))->getReason() == msg::Rejected::Reason::NOT_READY);
  link_stage(0, 11);
  link_stage(1, 12);
  bring_up();
  ask(2, 100'000);
  BOOST_CHECK(msg::Reading(next<msg::Rejected>(gateway))->getReason() == msg::Rejected::Reason::INVALID);
  ask(3);  // runs
  ask(4);  // waits
  next<msg::Accepted>(gateway);
  next<msg::Accepted>(gateway);
  ask(5);
  const auto frame = next<msg::Rejected>(gateway);
  const msg::Reading rejected(frame);
  BOOST_CHECK(rejected->getReason() == msg::Rejected::Reason::OVERLOADED);
  BOOST_CHECK_EQUAL(rejected->getRequest(), 5u);
  BOOST_CHECK_GT(rejected->getRetryAfterMs(), 0u);
}

BOOST_FIXTURE_TEST_CASE(it_says_at_once_that_it_is_overloaded_and_that_it_is_no_more, Fixture) {
  start();
  link_stage(0, 11);
  link_stage(1, 12);
  bring_up();
  ask(1);
  ask(2);
  for (;;) {
    const auto frame = next<msg::PipelineState>(gateway);
    const msg::Reading state(frame);
    if (!state->getOverloaded()) continue;
    BOOST_CHECK_EQUAL(state->getRunning(), 1u);
    BOOST_CHECK_EQUAL(state->getWaiting(), 1u);
    BOOST_CHECK(state->getWaitingFor() == msg::WaitingFor::SLOTS);
    BOOST_CHECK_GE(state->getRetryAfterMs(), 1000u);
    BOOST_CHECK(std::string(state->getReason()).find("pipeline.queue_max") != std::string::npos);
    break;
  }
  msg::FrameBuilder<msg::Cancel> cancel;
  cancel->initReplyTo().setNode("node1");
  cancel->getReplyTo().setRequest(2);
  mail(pipeline, std::move(cancel).finish());
  const auto began = std::chrono::steady_clock::now();
  while (msg::Reading(next<msg::PipelineState>(gateway))->getOverloaded()) continue;
  BOOST_CHECK_LT(std::chrono::steady_clock::now() - began, 2s);  // it says what is the same every 2.5 s
}

BOOST_FIXTURE_TEST_CASE(who_would_wait_too_long_is_rejected_by_measured_rates, Fixture) {
  start(30'000, 2, 100, 16, 100, 1, 1);
  link_stage(0, 11);
  link_stage(1, 12);
  bring_up();
  ask(1, 1);
  ask(2, 1);  // waits: so what finishes is measured
  ask(3, 1);
  const auto plan = next_plan();
  std::this_thread::sleep_for(50ms);
  answer(plan, 40);
  BOOST_CHECK_EQUAL(answered(), 1u);
  // Two wait or run, for places that become free every 50 ms: more than the 1 ms that one may wait.
  ask(4, 1);
  const auto frame = next<msg::Rejected>(gateway);
  const msg::Reading rejected(frame);
  BOOST_CHECK(rejected->getReason() == msg::Rejected::Reason::OVERLOADED);
  BOOST_CHECK(std::string(rejected->getMessage()).find("pipeline.queue_max_ms") != std::string::npos);
}

BOOST_FIXTURE_TEST_CASE(steps_are_timed_by_their_kind_and_canaries_are_not, Fixture) {
  start(30'000, 2, 100, 16, 1, 2);
  link_stage(0, 11);
  link_stage(1, 12);
  bring_up();
  const auto counts = [this] {
    std::map<std::string, uint64_t> counts;
    for (const auto& family : metrics->Collect())
      if (family.name == "convoy_step_seconds")
        for (const auto& metric : family.metric)
          counts[metric.label.at(0).value] = metric.histogram.sample_count;
    return counts;
  };
  BOOST_CHECK((counts() == std::map<std::string, uint64_t>{{"prefill", 0}, {"decode", 0}, {"mixed", 0}}));
  ask(1, 4);
  const auto prompt = next_plan(), ahead = next_plan();  // the prompt, and the token behind it
  answer(prompt, 40);
  BOOST_CHECK_EQUAL(answered(), 1u);
  BOOST_CHECK((counts() == std::map<std::string, uint64_t>{{"prefill", 1}, {"decode", 0}, {"mixed", 0}}));
  answer(ahead, 40);
  BOOST_CHECK_EQUAL(answered(), 1u);
  BOOST_CHECK((counts() == std::map<std::string, uint64_t>{{"prefill", 1}, {"decode", 1}, {"mixed", 0}}));
}

BOOST_FIXTURE_TEST_CASE(each_of_three_stages_is_told_its_layers_and_who_comes_next, Fixture) {
  start(30'000, 3);
  for (uint32_t i = 0; i < 3; ++i) link_stage(i, 11 + i);
  constexpr std::pair<uint32_t, uint32_t> layers[] = {{0, 1}, {2, 2}, {3, 4}};
  for (uint32_t i = 0; i < 3; ++i) {
    const auto frame = next<msg::Assign>(*stages[i]);
    const msg::Reading assign(frame);
    BOOST_CHECK_EQUAL(assign->getFirstLayer(), layers[i].first);
    BOOST_CHECK_EQUAL(assign->getLastLayer(), layers[i].second);
    const uint32_t next_one = (i + 1) % 3;  // behind the last one, the first: it is told the tokens
    BOOST_CHECK_EQUAL(assign->getNextInstance(), next_one);
    BOOST_CHECK_EQUAL(assign->getNextPort(), 1000 + next_one);
    BOOST_CHECK_EQUAL(assign->getNextHost().cStr(), "127.0.0.1");
  }
}

BOOST_FIXTURE_TEST_CASE(a_cancelled_request_gives_way_to_the_one_that_waits, Fixture) {
  start();
  link_stage(0, 11);
  link_stage(1, 12);
  bring_up();
  ask(1, 50);
  ask(2, 1);
  const auto first = next_plan(), ahead = next_plan();
  BOOST_CHECK_EQUAL(ahead.sequences.at(0).tokens.at(0), gpu::token_fed_back);
  msg::FrameBuilder<msg::Cancel> cancel;
  cancel->initReplyTo().setNode("node1");
  cancel->getReplyTo().setRequest(1);
  mail(pipeline, std::move(cancel).finish());
  const auto second = next_plan();
  BOOST_REQUIRE_EQUAL(second.ends.size(), 1u);
  BOOST_CHECK_EQUAL(second.ends[0], first.sequences[0].slot);
  answer(first, 30);
  answer(ahead, 30);
  answer(second, 31);
  BOOST_CHECK_EQUAL(answered(), 2u);
}

BOOST_FIXTURE_TEST_CASE(a_row_without_a_token_fails_its_request_and_costs_no_stage_its_place, Fixture) {
  start();
  link_stage(0, 11);
  link_stage(1, 12);
  bring_up();
  ask(9);
  answer(next_plan(), 0, gpu::RowFault::not_finite);
  const auto frame = next<msg::StepTokens>(gateway);
  const msg::Reading step(frame);
  BOOST_CHECK_EQUAL(step->getAnswers().size(), 0u);
  const auto failed = step->getFinished()[0];
  BOOST_CHECK(failed.getReason() == msg::Finished::Reason::FAILED);
  BOOST_CHECK_EQUAL(failed.getTokens(), 0u);
  BOOST_CHECK(std::string(failed.getMessage()).find("not a number") != std::string::npos);
  answer(next_plan(), 5);  // planned ahead: ignored
  ask(10, 1);
  answer(next_plan(), 42);  // the same stages, the same epoch
  BOOST_CHECK_EQUAL(answered(), 10u);
}

BOOST_FIXTURE_TEST_CASE(results_count_from_the_last_stage_and_reports_from_the_stage_itself, Fixture) {
  start();
  link_stage(0, 11);
  link_stage(1, 12);
  bring_up();
  ask(9, 1);
  const auto plan = next_plan();
  mail_from(0, encode(result_of(plan, 66)));    // another stage
  mail(pipeline, encode(result_of(plan, 66)));  // nobody
  mail_from(0, report_frame(1, msg::Health::DOWN, 1));
  answer(plan, 42);
  const auto frame = next<msg::StepTokens>(gateway);
  const msg::Reading step(frame);
  BOOST_CHECK_EQUAL(step->getAnswers()[0].getTokens()[0].getId(), 42);
  BOOST_CHECK(step->getFinished()[0].getReason() == msg::Finished::Reason::LENGTH);
}

BOOST_FIXTURE_TEST_CASE(a_pipeline_says_its_name_its_model_and_its_incarnation, Fixture) {
  start();
  const auto frame = next<msg::PipelineState>(router);
  const msg::Reading state(frame);
  BOOST_CHECK_EQUAL(state->getName().cStr(), "main");
  BOOST_CHECK_EQUAL(state->getModel().cStr(), "m");
  BOOST_CHECK_EQUAL(state->getIncarnation(), 77u);
  link_stage(0, 11);
  link_stage(1, 12);
  const auto assigned = next<msg::Assign>(*stages[0]);
  BOOST_CHECK_EQUAL(msg::Reading(assigned)->getPipeline().cStr(), "main");
  BOOST_CHECK_EQUAL(msg::Reading(assigned)->getIncarnation(), 77u);
  for (uint32_t i = 0; i < 2; ++i) report(i, msg::Health::READY, 1);
  answer(next_plan(), 3);
  ask(5);
  const auto accepted = next<msg::Accepted>(gateway);
  BOOST_CHECK_EQUAL(msg::Reading(accepted)->getName().cStr(), "main");
  BOOST_CHECK_EQUAL(msg::Reading(accepted)->getIncarnation(), 77u);
}

BOOST_FIXTURE_TEST_CASE(what_a_stage_says_to_another_pipeline_is_not_heard, Fixture) {
  start();
  link_stage(0, 11);
  link_stage(1, 12);
  for (uint32_t i = 0; i < 2; ++i) next<msg::Assign>(*stages[i]);
  report(0, msg::Health::READY, 1);
  mail_from(1, report_frame(1, msg::Health::READY, 1, 0, "second"));
  mail_from(1, report_frame(1, msg::Health::LOADING, 1, 0, "main"));
  // All are ready only by what was not heard.
  for (auto frame = next<msg::PipelineState>(router);; frame = next<msg::PipelineState>(router)) {
    const msg::Reading state(frame);
    if (state->getStages()[0].getHealth() != msg::Health::READY) continue;
    BOOST_CHECK(state->getStages()[1].getHealth() == msg::Health::LOADING);
    break;
  }
  report(1, msg::Health::READY, 1);
  BOOST_CHECK_EQUAL(next_plan().rows(), 1);
}
