// Stage: what its actor says to its neighbours, with mailboxes in the test in place of all of them.

#include "test/actors/stage_rig.hpp"
#include "test/cores.hpp"

using namespace convoy;
using namespace convoy::actors;
using namespace convoy::actors::test;
using namespace std::chrono_literals;

namespace {

gpu::Engine engine_of(model::LayerRange range) {
  return {gpu::cpu_device(gpu::Kernels::reference, 1), checkpoint, range, {8, 4, 512, 512}};
}

}  // namespace

BOOST_FIXTURE_TEST_CASE(the_last_stage_sends_its_tokens_to_the_first_and_to_the_pipeline, StageRig) {
  start(1);
  assign(1, {1, 2}, 0, "", 1000);
  while (await(msg::Health::LOADING) != "connecting to the next stage") continue;
  BOOST_CHECK(connects().empty());  // its neighbour connects
  link(0, 1000);
  await(msg::Health::READY);
  gpu::Engine first = engine_of({0, 0}), last = engine_of({1, 2});
  const gpu::StepPlan plan = prompt();
  const auto hidden = first.run(plan, {}).hidden;
  mail(stage, encode_activations(plan, hidden));
  const int32_t expected = last.run(plan, hidden).result.sequences.at(0).tokens.at(0).id;
  for (auto* mailbox : {&neighbour, &head}) {
    const auto frame = next<msg::StepResult>(*mailbox);
    BOOST_REQUIRE(frame);
    BOOST_CHECK_EQUAL(decode(frame).sequences.at(0).tokens.at(0).id, expected);
  }
}

BOOST_FIXTURE_TEST_CASE(the_first_stage_waits_for_the_token_that_its_plan_lacks, StageRig) {
  start(0);
  link(1, 1001);  // before it is known that this one comes next
  assign(1, {0, 1}, 1, "127.0.0.1", 1001);
  await(msg::Health::READY);
  BOOST_CHECK(connects().empty());
  mail(stage, encode(prompt()));
  BOOST_REQUIRE(next<msg::Activations>(neighbour));
  mail(stage, encode({.epoch = 1, .step = 1, .sequences = {{1, 3, {gpu::token_fed_back}, 1}}}));
  BOOST_CHECK(!next<msg::Activations>(neighbour, 50ms));
  const auto sampled_in = [](uint64_t epoch) {
    return encode(gpu::StepResult{.epoch = epoch, .step = 0, .sequences = {{1, {{.id = 77}}}}});
  };
  mail(stage, sampled_in(2));  // of another epoch
  BOOST_CHECK(!next<msg::Activations>(neighbour, 50ms));
  mail(stage, sampled_in(1));
  const auto frame = next<msg::Activations>(neighbour);
  BOOST_REQUIRE(frame);
  const msg::Reading step(frame);
  const gpu::StepPlan passed_on = decode(step->getPlan());
  BOOST_CHECK_EQUAL(passed_on.step, 1u);
  BOOST_CHECK_EQUAL(passed_on.sequences.at(0).tokens.at(0), 77);
  BOOST_CHECK_EQUAL(step->getData().size(), step->getHidden() * sizeof(float));
}

namespace {

/// Behind prompt(), and only its last row again: a step that may be run many times over.
gpu::StepPlan again(uint64_t step) { return {.epoch = 1, .step = step, .sequences = {{1, 2, {30}, 1}}}; }

/// The step behind that one, with the token that it sampled, which is not known yet.
gpu::StepPlan ahead(uint64_t step) {
  return {.epoch = 1, .step = step, .sequences = {{1, 3, {gpu::token_fed_back}, 1}}};
}

Frame<msg::StepResult> sampled(uint64_t step) {
  return encode(gpu::StepResult{.epoch = 1, .step = step, .sequences = {{1, {{.id = 77}}}}});
}

// A step on which other programs displaced the stage is not followed by one that stays: the tests below
// repeat it.
constexpr uint64_t tries = 2000;

}  // namespace

BOOST_FIXTURE_TEST_CASE(a_first_stage_stays_on_its_core_while_steps_are_alone_and_tells_the_next_one,
                        StageRig) {
  convoy::test::SleepingThread io;  // stands for the thread of its links
  const std::set<int> before = io.cores();
  start(0, {io.id()});
  link(1, 1001);
  assign(1, {0, 1}, 1, "127.0.0.1", 1001);
  await(msg::Health::READY);
  const auto hint = [&] {
    const auto frame = next<msg::Activations>(neighbour);
    BOOST_REQUIRE(frame);
    return msg::Reading(frame)->getHint();
  };
  const auto hint_of = [&](const gpu::StepPlan& plan) {
    mail(stage, encode(plan));
    return hint();
  };
  BOOST_CHECK_EQUAL(hint_of(prompt()), gpu::no_hint);
  int32_t core = gpu::no_hint;
  uint64_t step = 1;
  for (; core == gpu::no_hint && step < tries; step += 2) {
    BOOST_CHECK_EQUAL(hint_of(again(step)), gpu::no_hint);  // its tokens are known: others may run beside it
    mail(stage, encode(ahead(step + 1)));
    mail(stage, sampled(step));
    core = hint();
  }
  BOOST_CHECK(io.cores() == std::set{core});
  BOOST_CHECK_EQUAL(hint_of(again(step)), gpu::no_hint);
  BOOST_CHECK(io.cores() == before);
  mail(stage, encode(ahead(step + 2)));  // the step between them has not come back
  mail(stage, sampled(step));
  BOOST_CHECK_EQUAL(hint(), gpu::no_hint);
  BOOST_CHECK(io.cores() == before);
}

BOOST_FIXTURE_TEST_CASE(a_stage_whose_next_one_is_elsewhere_has_no_core_to_stay_on, StageRig) {
  start(0);
  link(1, 1001, "elsewhere");
  assign(1, {0, 1}, 1, "127.0.0.1", 1001, "elsewhere");
  await(msg::Health::READY);
  mail(stage, encode(prompt()));
  BOOST_REQUIRE(next<msg::Activations>(neighbour));
  for (uint64_t step = 1; step < 20; step += 2) {
    mail(stage, encode(again(step)));
    BOOST_REQUIRE(next<msg::Activations>(neighbour));
    mail(stage, encode(ahead(step + 1)));
    mail(stage, sampled(step));
    const auto frame = next<msg::Activations>(neighbour);
    BOOST_REQUIRE(frame);
    BOOST_CHECK_EQUAL(msg::Reading(frame)->getHint(), gpu::no_hint);
  }
}

BOOST_FIXTURE_TEST_CASE(a_later_stage_follows_the_one_before_it, StageRig) {
  convoy::test::SleepingThread io;  // stands for the thread of its links
  const std::set<int> before = io.cores();
  const int core = *before.begin();
  start(1, {io.id()});
  assign(1, {1, 2}, 0, "", 1000);
  link(0, 1000);
  await(msg::Health::READY);
  const auto run = [&](const gpu::StepPlan& plan, int32_t hint) {
    mail(stage, encode_activations(plan, std::vector<float>(static_cast<size_t>(plan.rows()) * 128), hint));
    BOOST_REQUIRE(next<msg::StepResult>(neighbour));
  };
  run(prompt(), gpu::no_hint);
  uint64_t step = 1;
  do run(again(step), core);
  while (io.cores() != std::set{core} && ++step < tries);
  BOOST_CHECK(io.cores() == std::set{core});
  run(again(++step), gpu::no_hint);
  BOOST_CHECK(io.cores() == before);
}

// The link that it was to come by ended, and another took its place.
BOOST_FIXTURE_TEST_CASE(a_step_behind_one_that_never_came_is_left_to_the_next_epoch, StageRig) {
  start(1);
  assign(1, {1, 2}, 0, "", 1000);
  link(0, 1000);
  await(msg::Health::READY);
  const auto send = [&](const gpu::StepPlan& plan) {
    mail(stage, encode_activations(plan, std::vector<float>(static_cast<size_t>(plan.rows()) * 128)));
  };
  send(again(1));
  BOOST_CHECK(!next<msg::StepResult>(neighbour, 50ms));
  assign(2, {1, 2}, 0, "", 1000);
  send(prompt(2));
  const auto frame = next<msg::StepResult>(neighbour);
  BOOST_REQUIRE(frame);
  BOOST_CHECK_EQUAL(msg::Reading(frame)->getEpoch(), 2u);
}

BOOST_FIXTURE_TEST_CASE(a_next_stage_that_refuses_is_tried_again_until_another_is_named, StageRig) {
  start(0);
  assign(1, {0, 1}, 1, "127.0.0.1", 1001);
  await(msg::Health::LOADING);
  caf::anon_send(stage, PeerRefused{"127.0.0.1:1001", "refused"});
  BOOST_CHECK(convoy::test::comes_true([&] { return connects().size() == 2; }));
  assign(2, {0, 1}, 1, "127.0.0.1", 1002);
  caf::anon_send(stage, PeerRefused{"127.0.0.1:1001", "refused"});  // of the one that was named before
  std::this_thread::sleep_for(100ms);
  const std::vector<std::string> expected{"127.0.0.1:1001", "127.0.0.1:1001", "127.0.0.1:1002"};
  const auto tried = connects();
  BOOST_CHECK_EQUAL_COLLECTIONS(tried.begin(), tried.end(), expected.begin(), expected.end());
  link(1, 1002);
  await(msg::Health::READY);
}

// While stages load nobody raises the epoch for a connection that ended: the stage itself connects again.
BOOST_FIXTURE_TEST_CASE(a_link_to_the_next_stage_that_breaks_is_remade, StageRig) {
  mortal = std::make_shared<caf::scoped_actor>(system);
  start(0);
  assign(1, {0, 1}, 1, "127.0.0.1", 1001);
  link(1, 1001);
  await(msg::Health::READY);
  mortal.reset();
  BOOST_CHECK_EQUAL(await(msg::Health::LOADING), "connecting to the next stage");
  BOOST_CHECK(convoy::test::comes_true([&] { return connects().size() == 2; }));
  link(1, 1001);
  await(msg::Health::READY);
}

BOOST_FIXTURE_TEST_CASE(a_successor_is_met_though_it_is_linked_before_its_predecessor_ends, StageRig) {
  mortal = std::make_shared<caf::scoped_actor>(system);
  start(1);
  assign(1, {1, 2}, 0, "", 1000);  // which connects to us
  link(0, 1000, "here", 1);
  await(msg::Health::READY);
  link(0, 2000, "here", 2);
  mortal.reset();
  await(msg::Health::LOADING);
  assign(2, {1, 2}, 0, "", 2000);
  await(msg::Health::READY);
}

BOOST_FIXTURE_TEST_CASE(a_stage_reports_what_its_steps_cost, StageRig) {
  start(1);
  assign(1, {1, 2}, 0, "", 1000);
  link(0, 1000);
  await(msg::Health::READY);
  mail(stage, encode_activations(prompt(), std::vector<float>(3 * 128)));
  float cost_us = 0;
  for (const auto end = std::chrono::steady_clock::now() + convoy::test::patience;
       cost_us == 0 && std::chrono::steady_clock::now() < end;) {
    const auto frame = next<msg::StageReport>(head);
    BOOST_REQUIRE(frame);
    const msg::Reading report(frame);
    cost_us = report->getStepFixedUs() + report->getStepPerRowUs();
  }
  BOOST_CHECK_GT(cost_us, 0);
}

BOOST_FIXTURE_TEST_CASE(what_fits_no_stage_or_no_plan_takes_the_stage_down_with_a_reason, StageRig) {
  start(1);
  link(0, 1000);
  const auto contains = [](const std::string& text, const char* part) {
    return text.find(part) != std::string::npos;
  };
  assign(1, {1, 2}, 0, "", 1000);
  await(msg::Health::READY);
  mail(stage, encode(prompt()));
  BOOST_CHECK(contains(await(msg::Health::DOWN), "only the first stage takes plans"));
  assign(2, {1, 2}, 0, "", 1000);
  await(msg::Health::READY);
  gpu::StepPlan plan = prompt();
  plan.epoch = 2;
  msg::FrameBuilder<msg::Activations> frame(1024);
  encode(plan, frame->initPlan());
  frame->setHidden(128);
  frame->initData(2 * 128 * sizeof(float));
  mail(stage, std::move(frame).finish());
  BOOST_CHECK(contains(await(msg::Health::DOWN), "the plan has 3 rows"));
}

BOOST_AUTO_TEST_CASE(a_frame_of_hidden_states_has_room_for_any_plan) {
  gpu::StepPlan plan{.epoch = 1, .step = 2};
  for (uint32_t slot = 0; slot < 70; ++slot) {
    model::Sampling sampling;
    sampling.end_tokens.assign(slot, 5);
    plan.starts.push_back({slot, 3, sampling});
    plan.sequences.push_back({slot, 0, std::vector<int32_t>(slot % 4 + 1, 9), 1});
    for (uint32_t i = 0; i < slot % 3; ++i) plan.block_changes.push_back({slot, i, slot});
    if (slot % 2) plan.ends.push_back(slot);
  }
  ActivationsBuilder builder(plan, 3);
  const float* const written = builder.hidden().values().data();
  std::ranges::fill(builder.hidden().values(), 0.5f);
  const auto frame = std::move(builder).finish(gpu::no_hint);
  const msg::Reading message(frame);
  const gpu::StepPlan same = decode(message->getPlan());
  BOOST_CHECK_EQUAL(same.starts.at(69).sampling.end_tokens.size(), 69u);
  BOOST_CHECK_EQUAL(same.rows(), plan.rows());
  BOOST_CHECK_EQUAL(same.ends.size(), plan.ends.size());
  const auto hidden = decode_hidden(*message, same).values();
  BOOST_CHECK_EQUAL(hidden.data(), written);  // nothing was copied
  BOOST_CHECK(std::ranges::all_of(hidden, [](float value) { return value == 0.5f; }));
}
