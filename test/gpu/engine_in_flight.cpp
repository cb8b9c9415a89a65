// What the engine does with a device that has several steps in flight and completes them late.

#include <boost/test/unit_test.hpp>

#include "test/gpu/late_device.hpp"
#include "test/gpu/tiny_model.hpp"

using namespace convoy;
using namespace convoy::gpu;
using namespace convoy::gpu::test;

namespace {

constexpr std::chrono::microseconds now{0};

struct Rig {
  LateDevice::Book book;
  Engine engine;

  explicit Rig(bool feeds_back = true, const EngineLimits& limits = tiny_limits, uint64_t memory_bytes = 0)
      : engine(
            [this, feeds_back, memory_bytes](const StageShape&) {
              book.memory_bytes = memory_bytes;
              return std::make_unique<LateDevice>(book, feeds_back);
            },
            std::make_shared<TinyCheckpoint>(model::DType::f32), {0, 2}, limits) {}

  void submit(StepPlan plan) { engine.submit(plan, {}, {}); }
};

/// Slot 0 with three tokens of a prompt, in block 2.
StepPlan prompt() {
  return {.epoch = 1,
          .step = 0,
          .starts = {{0, 3, {}}},
          .block_changes = {{0, 0, 2}},
          .sequences = {{0, 0, {10, 20, 30}, 1}}};
}

/// The decode behind it that goes on with what the slot sampled last.
StepPlan decode(uint64_t step, uint32_t position) {
  return {.epoch = 1, .step = step, .sequences = {{0, position, {token_fed_back}, 1}}};
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_second_tier_is_refused_where_the_device_moves_no_blocks) {
  EngineLimits limits = tiny_limits;
  limits.second_tier.disk_bytes = 1 << 20;
  BOOST_CHECK_EXCEPTION(Rig(true, limits), InputError, [](const InputError& e) {
    const std::string text = e.what();
    return text.find("the device late does not move KV blocks") != std::string::npos &&
           text.find("stage.kv_disk_bytes") != std::string::npos;
  });
}

BOOST_AUTO_TEST_CASE(a_device_gets_every_layer_then_the_ends_and_opens_last) {
  Rig rig;
  BOOST_REQUIRE(rig.book.loads.size() == 4u);
  for (int64_t layer = 0; layer < 3; layer++)
    BOOST_TEST(rig.book.loads[static_cast<size_t>(layer)].first == layer);
  BOOST_TEST(rig.book.loads[3].first == -1);
  BOOST_TEST(rig.book.loads[3].second == 3u);  // embedding, norm, head
  BOOST_TEST(rig.book.opened);
  BOOST_TEST(rig.book.limits.kv_blocks == tiny_limits.kv_blocks);
  BOOST_TEST(rig.book.limits.rows == tiny_limits.rows_per_step);
}

BOOST_AUTO_TEST_CASE(steps_are_submitted_before_the_ones_ahead_are_done) {
  Rig rig;
  rig.submit(prompt());
  rig.submit(decode(1, 3));
  rig.submit(decode(2, 4));
  BOOST_TEST(rig.engine.in_flight() == 3u);
  BOOST_TEST(!rig.engine.next_done(now));
  BOOST_REQUIRE(rig.book.steps.size() == 3u);
  // What the device samples it feeds back itself: the engine does not know the token, only that there is one.
  BOOST_TEST(rig.book.steps[1].ids == std::vector{token_fed_back}, boost::test_tools::per_element());
  BOOST_TEST(rig.book.steps[2].sequences[0].first_position == 4);
  BOOST_TEST(rig.book.steps[0].started == std::vector<uint32_t>{0}, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(results_come_in_order_and_name_their_steps) {
  Rig rig;
  rig.submit(prompt());
  rig.submit(decode(1, 3));
  rig.book.finished = 1;
  auto result = rig.engine.next_done(now);
  BOOST_REQUIRE(result);
  BOOST_TEST(result->step == 0u);
  BOOST_TEST(result->epoch == 1u);
  BOOST_TEST(result->sequences.at(0).tokens.at(0).id == 3);
  BOOST_TEST(rig.book.steps[0].released);
  BOOST_TEST(!rig.book.steps[1].released);
  BOOST_TEST(!rig.engine.next_done(now));
  rig.submit(decode(2, 4));
  rig.book.finished = 3;
  BOOST_TEST(rig.engine.next_done(now)->step == 1u);
  result = rig.engine.next_done(now);
  BOOST_TEST(result->step == 2u);
  BOOST_TEST(result->sequences.at(0).tokens.at(0).id == 5);
  BOOST_TEST(rig.engine.in_flight() == 0u);
}

BOOST_AUTO_TEST_CASE(no_more_steps_are_submitted_than_the_device_takes) {
  Rig rig;
  rig.submit(prompt());
  rig.submit(decode(1, 3));
  rig.submit(decode(2, 4));
  BOOST_CHECK_THROW(rig.submit(decode(3, 5)), std::runtime_error);
  BOOST_TEST(rig.book.steps.size() == 3u);
  rig.book.finished = 1;
  rig.engine.next_done(now);
  rig.submit(decode(3, 5));
  BOOST_TEST(rig.book.steps.size() == 4u);
}

BOOST_AUTO_TEST_CASE(a_slot_that_ended_may_start_again_while_its_last_step_is_in_flight) {
  Rig rig;
  StepPlan last = prompt();
  last.ends = {0};
  rig.submit(last);
  StepPlan next = prompt();
  next.step = 1;
  rig.submit(next);
  rig.book.finished = 2;
  // The older step's token belongs to the older sequence, and is not fed to the new one.
  BOOST_TEST(rig.engine.next_done(now)->sequences.size() == 1u);
  rig.submit(decode(2, 3));
  BOOST_TEST(rig.engine.next_done(now)->step == 1u);
}

BOOST_AUTO_TEST_CASE(a_token_that_no_step_samples_is_refused_before_the_device_hears_of_it) {
  Rig rig;
  StepPlan silent = prompt();
  silent.sequences[0].sampled_rows = 0;
  rig.submit(silent);
  BOOST_CHECK_THROW(rig.submit(decode(1, 3)), std::runtime_error);
  Rig other;
  other.submit(prompt());
  BOOST_CHECK_THROW(other.submit(decode(1, 4)), std::runtime_error);  // one position too far
  BOOST_TEST(other.book.steps.size() == 1u);
}

BOOST_AUTO_TEST_CASE(without_feeding_back_tokens_are_put_in_when_they_are_known) {
  Rig rig(false);
  rig.submit(prompt());
  StepPlan next = decode(1, 3);
  BOOST_TEST(!rig.engine.resolve(next));
  BOOST_CHECK_THROW(rig.submit(next), std::runtime_error);
  rig.book.finished = 1;
  BOOST_REQUIRE(rig.engine.next_done(now));
  BOOST_TEST(rig.engine.resolve(next));
  rig.submit(next);
  BOOST_TEST(rig.book.steps[1].ids == std::vector{3}, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(a_new_epoch_forgets_what_is_in_flight) {
  Rig rig;
  rig.submit(prompt());
  rig.submit(decode(1, 3));
  rig.engine.reset();
  BOOST_TEST(rig.book.resets == 1u);
  BOOST_TEST(rig.engine.in_flight() == 0u);
  BOOST_CHECK_THROW(rig.submit(decode(0, 3)), std::runtime_error);  // no sequence is left
  rig.submit(prompt());
  rig.book.finished = 1;
  BOOST_TEST(rig.engine.next_done(now)->sequences.at(0).tokens.at(0).id == 3);
}

BOOST_AUTO_TEST_CASE(an_engine_takes_as_many_blocks_as_fit_if_limits_leave_that_open) {
  EngineLimits limits = tiny_limits;
  limits.kv_blocks = 0, limits.sharers = 2;
  // Rotations of 512 positions and 32 values a head; weights, buffers and scratch as the device says.
  const uint64_t taken = 512 * 32 * sizeof(float) + 3'000'750;
  const Rig rig(true, limits, 2 * (taken + 7999));
  BOOST_TEST(rig.engine.kv_blocks() == 7u);
  BOOST_TEST(rig.book.limits.kv_blocks == 7u);
  BOOST_REQUIRE(rig.engine.kv_pool());
  BOOST_TEST(rig.engine.kv_pool()->text().ends_with(": 7 blocks"), rig.engine.kv_pool()->text());
  const Rig large(true, limits, uint64_t{1} << 50);
  BOOST_TEST(large.engine.kv_blocks() == 4u * 8);                        // what four slots of 512 tokens fill
  BOOST_CHECK_THROW(Rig(true, limits, 2 * (taken + 1999)), InputError);  // one block is the canary's
  BOOST_CHECK_THROW(Rig(true, limits, 0), InputError);                   // the system does not say
}

BOOST_AUTO_TEST_CASE(an_engine_gets_its_blocks_back_beside_others_that_kept_theirs) {
  EngineLimits limits = tiny_limits;
  limits.kv_blocks = 0, limits.sharers = 2, limits.kv_blocks_before = 6;
  const uint64_t taken = 512 * 32 * sizeof(float) + 3'000'750;
  BOOST_TEST(Rig(true, limits, taken + 7999).engine.kv_blocks() == 6u);
  BOOST_TEST(Rig(true, limits, taken + 4999).engine.kv_blocks() == 4u);  // there is less by now
}

BOOST_AUTO_TEST_CASE(weights_that_the_device_has_no_memory_for_are_refused_before_they_are_read) {
  LateDevice::Book book;
  book.memory_bytes = 20'000;
  const DeviceFactory open = [&](const StageShape&) { return std::make_unique<LateDevice>(book, true); };
  BOOST_CHECK_EXCEPTION(
      Engine(open, std::make_shared<TinyCheckpoint>(model::DType::f32), {0, 2}, tiny_limits), InputError,
      [](const InputError& e) { return std::string(e.what()).find("layers' weights") != std::string::npos; });
  BOOST_TEST(book.loads.empty());
}
