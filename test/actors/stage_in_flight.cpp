// Stage: what its actor does with a device that has several steps in flight and completes them late.

#include "test/actors/stage_rig.hpp"
#include "test/gpu/fake_cuda.hpp"
#include "test/gpu/late_device.hpp"

using namespace convoy;
using namespace convoy::actors;
using namespace convoy::actors::test;
using namespace std::chrono_literals;
using gpu::test::FakeCuda;
using gpu::test::LateDevice;

namespace {

struct LateRig {
  LateDevice::Book book;  // outlives the stage
  StageRig rig;

  void start(uint32_t instance, bool feeds_back) {
    rig.start(instance, {}, [this, feeds_back](const gpu::StageShape& shape) {
      return std::make_unique<LateDevice>(book, feeds_back, shape.hidden);
    });
  }
  /// A stage that has all layers.
  void start_alone() {
    start(0, true);
    rig.assign(1, {0, 2}, 0, "", 0);
    rig.await(msg::Health::READY);
  }

  template <class Look>
  auto look(const Look& look) {
    const std::lock_guard lock(book.mutex);
    return look(book);
  }
  size_t submitted() {
    return look([](const auto& b) { return b.steps.size(); });
  }
  bool are_submitted(size_t count) {
    return convoy::test::comes_true([&] { return submitted() == count; });
  }
  /// So many of the device's steps are done.
  void finish(size_t count) {
    look([&](auto& b) { b.finished = count; });
    book.changed.notify_all();
  }
  void fail(const char* why) {
    look([&](auto& b) { b.fault = why; });
    book.changed.notify_all();
  }
  /// The next result that the pipeline gets.
  gpu::StepResult result() {
    const auto frame = rig.next<msg::StepResult>(rig.head);
    BOOST_REQUIRE(frame);
    return decode(frame);
  }
  uint32_t step_age_ms() {
    const auto frame = rig.next<msg::StageReport>(rig.head);
    BOOST_REQUIRE(frame);
    return msg::Reading(frame)->getOldestStepAgeMs();
  }
};

/// The decode behind prompt(), or behind the one before, that goes on with what the slot sampled last.
gpu::StepPlan decode_of(uint64_t step) {
  return {.epoch = 1,
          .step = step,
          .sequences = {{1, static_cast<uint32_t>(step + 2), {gpu::token_fed_back}, 1}}};
}

}  // namespace

BOOST_FIXTURE_TEST_CASE(steps_are_submitted_while_others_are_in_flight_and_leave_in_order, LateRig) {
  start_alone();
  mail(rig.stage, encode(prompt()));
  for (uint64_t step = 1; step < 4; ++step) mail(rig.stage, encode(decode_of(step)));
  BOOST_REQUIRE(are_submitted(LateDevice::depth));  // none is done yet, nor are their tokens known
  BOOST_CHECK(!rig.next<msg::StepResult>(rig.head, 50ms));
  BOOST_CHECK_EQUAL(submitted(), LateDevice::depth);  // the fourth has no room
  finish(1);
  BOOST_CHECK_EQUAL(result().step, 0u);
  BOOST_REQUIRE(are_submitted(4));
  BOOST_CHECK(look([](const auto& b) { return b.steps[3].ids == std::vector{gpu::token_fed_back}; }));
  finish(4);
  for (uint64_t step = 1; step < 4; ++step) {
    const gpu::StepResult done = result();
    BOOST_CHECK_EQUAL(done.step, step);
    BOOST_CHECK_EQUAL(done.sequences.at(0).tokens.at(0).id, static_cast<int32_t>(step + 3));
  }
}

BOOST_FIXTURE_TEST_CASE(a_new_epoch_ends_what_is_in_flight_and_what_waits, LateRig) {
  start_alone();
  mail(rig.stage, encode(prompt()));
  for (uint64_t step = 1; step < 4; ++step) mail(rig.stage, encode(decode_of(step)));
  BOOST_REQUIRE(are_submitted(LateDevice::depth));
  rig.assign(2, {0, 2}, 0, "", 0);
  BOOST_REQUIRE(are_submitted(0));
  BOOST_CHECK_EQUAL(look([](const auto& b) { return b.resets; }), 1u);
  mail(rig.stage, encode(decode_of(4)));  // of the epoch that is over
  mail(rig.stage, encode(prompt(2)));
  BOOST_REQUIRE(are_submitted(1));
  finish(1);
  const gpu::StepResult done = result();
  BOOST_CHECK_EQUAL(done.epoch, 2u);
  BOOST_CHECK_EQUAL(done.step, 0u);
  BOOST_CHECK(!rig.next<msg::StepResult>(rig.head, 50ms));
}

BOOST_FIXTURE_TEST_CASE(a_fault_that_comes_late_takes_the_stage_down, LateRig) {
  start_alone();
  mail(rig.stage, encode(prompt()));
  mail(rig.stage, encode(decode_of(1)));
  BOOST_REQUIRE(are_submitted(2));
  fail("an illegal memory access");
  BOOST_CHECK_EQUAL(rig.await(msg::Health::DOWN), "an illegal memory access");
  mail(rig.stage, encode(decode_of(2)));
  BOOST_CHECK(!rig.next<msg::StepResult>(rig.head, 50ms));
  BOOST_CHECK_EQUAL(submitted(), 2u);
}

// What the pipeline does about it: test/actors/stage_set.cpp, a_failed_stage_of_three_is_lost_….
BOOST_AUTO_TEST_CASE(a_gpu_that_is_lost_takes_its_stage_down_for_good_with_what_cuda_said) {
  for (const char* function : {"submit", "next_done"}) BOOST_TEST_CONTEXT(function) {
      FakeCuda fake;  // outlives the stage
      fake.completes = false;
      StageRig rig;
      rig.start(0, {}, fake.device());
      rig.assign(1, {0, 2}, 0, "", 0);
      rig.await(msg::Health::READY);
      fake.fail("reset", gpu::test::lost_status);
      if (function == std::string("next_done")) {
        mail(rig.stage, encode(prompt()));
        BOOST_REQUIRE(convoy::test::comes_true([&] { return fake.calls("next_done") > 2; }));  // in flight
        fake.fail(function, gpu::test::lost_status);
      } else {
        fake.fail(function, gpu::test::lost_status);
        mail(rig.stage, encode(prompt()));
      }
      const std::string reason = rig.await(msg::Health::DOWN);
      BOOST_CHECK(reason.find("unspecified launch failure") != reason.npos);
      // Nothing more is asked of the card, and a new epoch does not make it ready again.
      const size_t asked = fake.calls("next_done");
      mail(rig.stage, encode(decode_of(1)));
      rig.assign(2, {0, 2}, 0, "", 0);
      BOOST_REQUIRE(convoy::test::comes_true([&] { return fake.calls("reset") == 1; }));
      rig.await(msg::Health::DOWN);
      BOOST_CHECK_EQUAL(fake.calls("next_done"), asked);
    }
}

BOOST_FIXTURE_TEST_CASE(hidden_states_are_read_and_written_in_their_frames_when_the_step_is_done, LateRig) {
  start(1, false);
  rig.link(2, 1002);
  rig.assign(1, {1, 1}, 2, "", 1002);
  rig.await(msg::Health::READY);
  for (uint64_t step = 0; step < 2; ++step) {
    gpu::StepPlan plan = prompt();
    plan.step = step;
    std::vector<float> hidden(3 * 128);
    for (size_t i = 0; i < hidden.size(); ++i) hidden[i] = static_cast<float>(i) / 4;
    mail(rig.stage, encode_activations(plan, hidden));  // gone when the step is done, but for the stage
  }
  BOOST_REQUIRE(are_submitted(2));
  BOOST_CHECK(!rig.next<msg::Activations>(rig.neighbour, 50ms));
  finish(2);
  for (uint64_t step = 0; step < 2; ++step) {
    const auto frame = rig.next<msg::Activations>(rig.neighbour);
    BOOST_REQUIRE(frame);
    const msg::Reading message(frame);
    const gpu::StepPlan plan = decode(message->getPlan());
    BOOST_CHECK_EQUAL(plan.step, step);
    const auto hidden = decode_hidden(*message, plan).values();
    BOOST_REQUIRE_EQUAL(hidden.size(), 3u * 128);
    const auto number = static_cast<float>(step + 1);  // the engine counts from one
    for (size_t i = 0; i < hidden.size(); ++i)
      BOOST_REQUIRE_EQUAL(hidden[i], number + static_cast<float>(i) / 4);
  }
}

BOOST_AUTO_TEST_CASE(hidden_states_travel_in_bf16_if_both_devices_say_so) {
  struct Case {
    cuda::Activations activations;
    msg::HiddenForm next, travels;
  };
  using enum msg::HiddenForm;
  for (const auto& [activations, next, travels] :
       {Case{cuda::Activations::bf16, BFLOAT16, BFLOAT16},
        {cuda::Activations::bf16, FLOAT32, FLOAT32},
        {cuda::Activations::f32, BFLOAT16, FLOAT32},
        {cuda::Activations::f32, FLOAT32, FLOAT32},
        {cuda::Activations::bf16, static_cast<msg::HiddenForm>(9), FLOAT32}}) {
    FakeCuda fake;
    StageRig rig;
    rig.start(0, {}, fake.device({.activations = activations}));
    rig.link(1, 1001, "here", 0, next);
    rig.assign(1, {0, 0}, 1, "", 1001);
    rig.await(msg::Health::READY);
    gpu::StepPlan plan = prompt();
    plan.sequences[0].sampled_rows = 0;
    mail(rig.stage, encode(plan));
    const auto frame = rig.next<msg::Activations>(rig.neighbour);
    BOOST_REQUIRE(frame);
    const msg::Reading message(frame);
    BOOST_CHECK(message->getForm() == travels);
    BOOST_CHECK_EQUAL(message->getData().size(), 3u * 128 * (travels == BFLOAT16 ? 2 : 4));
    BOOST_CHECK(encode(fake.step.out_form) == travels);
  }
}

BOOST_AUTO_TEST_CASE(hidden_states_that_a_device_does_not_take_end_its_stage) {
  for (const auto form : {msg::HiddenForm::BFLOAT16, static_cast<msg::HiddenForm>(9)}) {
    StageRig rig;
    rig.start(1);
    rig.link(0, 1000);
    rig.assign(1, {1, 2}, 0, "", 1000);
    rig.await(msg::Health::READY);
    msg::FrameBuilder<msg::Activations> frame(512);
    encode(prompt(), frame->initPlan());
    frame->setHidden(128);
    frame->setForm(form);
    frame->initData(3 * 128 * 2);
    mail(rig.stage, std::move(frame).finish());
    const std::string reason = rig.await(msg::Health::DOWN);
    BOOST_CHECK_MESSAGE(reason.find("form") != reason.npos, reason);
  }
}

BOOST_FIXTURE_TEST_CASE(a_stage_says_that_it_computes_until_its_last_step_in_flight_is_done, LateRig) {
  start_alone();
  BOOST_CHECK_EQUAL(step_age_ms(), 0u);
  mail(rig.stage, encode(prompt()));
  mail(rig.stage, encode(decode_of(1)));
  BOOST_REQUIRE(are_submitted(2));
  BOOST_CHECK(convoy::test::comes_true([&] { return step_age_ms() > 0; }));
  finish(1);
  result();
  BOOST_CHECK_GT(step_age_ms(), 0u);
  finish(2);
  result();
  BOOST_CHECK(convoy::test::comes_true([&] { return step_age_ms() == 0; }));
}
