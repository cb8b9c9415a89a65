// Steps as frames: what is sent comes back, whatever an older sender left out, and malformed bytes throw.

#include "actors/stage/step_codec.hpp"

#include <boost/test/unit_test.hpp>
#include <cstring>
#include <numeric>
#include <random>

using namespace convoy;
using namespace convoy::actors;

namespace {

/// A sequence from its first token on, one behind cached tokens, and one whose penalties ask for their ids.
gpu::StepPlan plan_of(size_t history) {
  gpu::StepPlan plan{.epoch = 3,
                     .step = 7,
                     .starts = {{0, 5, {}}, {1, 70, {.temperature = 0.5f, .end_tokens = {2, 3}}}},
                     .block_changes = {{1, 0, 9}, {1, 1, 4}},
                     .moves = {{gpu::BlockMove::Way::save, 4, 17}, {gpu::BlockMove::Way::load, 9, 17}},
                     .sequences = {{0, 0, {10, 20}, 1}, {1, 64, {30, 31, 32}, 3}},
                     .ends = {3}};
  plan.starts[1].cached_tokens = 64;
  gpu::SeqStart& penalised = plan.starts.emplace_back(gpu::SeqStart{2, 1, {.repetition_penalty = 1.5f}});
  penalised.cached_tokens = static_cast<uint32_t>(history);
  penalised.history.resize(history);
  std::iota(penalised.history.begin(), penalised.history.end(), 100);
  return plan;
}

void same(const gpu::StepPlan& own, const gpu::StepPlan& expected) {
  BOOST_TEST(own.epoch == expected.epoch);
  BOOST_TEST(own.step == expected.step);
  BOOST_REQUIRE(own.starts.size() == expected.starts.size());
  for (size_t i = 0; i < own.starts.size(); i++) {
    const gpu::SeqStart &a = own.starts[i], &b = expected.starts[i];
    BOOST_TEST(a.slot == b.slot);
    BOOST_TEST(a.prompt_tokens == b.prompt_tokens);
    BOOST_TEST(a.cached_tokens == b.cached_tokens);
    BOOST_TEST(a.history == b.history, boost::test_tools::per_element());
    BOOST_TEST(a.sampling.temperature == b.sampling.temperature);
    BOOST_TEST(a.sampling.repetition_penalty == b.sampling.repetition_penalty);
    BOOST_TEST(a.sampling.end_tokens == b.sampling.end_tokens, boost::test_tools::per_element());
  }
  BOOST_REQUIRE(own.sequences.size() == expected.sequences.size());
  for (size_t i = 0; i < own.sequences.size(); i++) {
    const gpu::SeqStep &a = own.sequences[i], &b = expected.sequences[i];
    BOOST_TEST(a.slot == b.slot);
    BOOST_TEST(a.first_position == b.first_position);
    BOOST_TEST(a.tokens == b.tokens, boost::test_tools::per_element());
    BOOST_TEST(a.sampled_rows == b.sampled_rows);
  }
  BOOST_REQUIRE(own.block_changes.size() == expected.block_changes.size());
  for (size_t i = 0; i < own.block_changes.size(); i++) {
    const gpu::BlockChange &a = own.block_changes[i], &b = expected.block_changes[i];
    BOOST_TEST((a.slot == b.slot && a.index == b.index && a.block == b.block));
  }
  BOOST_TEST((own.moves == expected.moves));
  BOOST_TEST(own.ends == expected.ends, boost::test_tools::per_element());
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_plan_comes_back_as_it_was_sent_alone_and_with_hidden_states) {
  for (const size_t history : {0, 1, 64, 100'000}) BOOST_TEST_CONTEXT("a history of " << history) {
      const gpu::StepPlan plan = plan_of(history);
      const auto alone = encode(plan);
      same(decode(*msg::Reading(alone)), plan);
      const auto behind = encode_activations(plan, std::vector<float>(5 * 8, 0.5f));
      same(decode(msg::Reading(behind)->getPlan()), plan);
      const auto by_edge = encode_for_edge(plan, 8);
      same(decode(msg::Reading(by_edge)->getPlan()), plan);
    }
}

// The memory of a frame with hidden states is taken beforehand.
BOOST_AUTO_TEST_CASE(a_plan_of_many_starts_fits_the_memory_that_its_frame_takes) {
  gpu::StepPlan plan;
  for (uint32_t slot = 0; slot < 300; slot++) {
    gpu::SeqStart& start = plan.starts.emplace_back(gpu::SeqStart{slot, 9, {.presence_penalty = 1}});
    start.cached_tokens = slot % 5;
    start.history.assign(start.cached_tokens, 7);
    start.sampling.end_tokens.assign(slot % 3, 1);
    plan.sequences.push_back({slot, start.cached_tokens, {1}, 1});
    plan.moves.push_back({gpu::BlockMove::Way::load, slot, slot});
  }
  const auto frame = encode_activations(plan, std::vector<float>(300, 0.5f));
  same(decode(msg::Reading(frame)->getPlan()), plan);
}

BOOST_AUTO_TEST_CASE(a_start_that_says_nothing_of_cached_tokens_has_none) {
  msg::FrameBuilder<msg::StepPlan> frame;
  frame->initStarts(1)[0].setPromptTokens(5);
  const auto plan = decode(*msg::Reading(std::move(frame).finish()));
  BOOST_REQUIRE(plan.starts.size() == 1u);
  BOOST_TEST(plan.starts[0].prompt_tokens == 5u);
  BOOST_TEST(plan.starts[0].cached_tokens == 0u);
  BOOST_TEST(plan.starts[0].history.empty());
}

BOOST_AUTO_TEST_CASE(a_plan_with_moves_and_no_rows_comes_back_as_it_was_sent) {
  const gpu::StepPlan plan{.step = 4, .moves = {{gpu::BlockMove::Way::save, 1, 2}}};
  same(decode(*msg::Reading(encode(plan))), plan);
  same(decode(msg::Reading(encode_activations(plan, {}))->getPlan()), plan);
}

BOOST_AUTO_TEST_CASE(a_move_in_a_way_of_a_later_version_is_refused) {
  msg::FrameBuilder<msg::StepPlan> frame;
  auto move = frame->initMoves(1)[0];
  move.setBlock(3);
  move.setWay(static_cast<msg::BlockMove::Way>(7));
  BOOST_CHECK_EXCEPTION(decode(*msg::Reading(std::move(frame).finish())), std::runtime_error,
                        [](const std::runtime_error& e) {
                          return std::string(e.what()) == "block 3 moves in the unknown way 7";
                        });
}

BOOST_AUTO_TEST_CASE(a_damaged_plan_is_decoded_or_throws_and_takes_no_more_than_its_frame_holds) {
  const auto frame = encode(plan_of(200));
  const size_t bytes = frame.bytes()->size();
  const uint64_t most = schema::reader_options(bytes).traversalLimitInWords * sizeof(capnp::word);
  const uint32_t seed = std::random_device{}();
  std::mt19937 random(seed);
  size_t threw = 0, decoded = 0;
  for (int round = 0; round < 5000; round++) BOOST_TEST_CONTEXT("seed " << seed << ", round " << round) {
      auto damaged = std::make_shared<schema::FrameBuffer>(bytes);
      std::memcpy(damaged->data(), frame.bytes()->data(), bytes);
      for (uint32_t i = 0; i <= random() % 4; i++)
        damaged->data()[8 + random() % (bytes - 8)] = std::byte(random());
      try {
        const Frame<msg::StepPlan> read{std::move(damaged)};
        const gpu::StepPlan plan = decode(*msg::Reading(read));
        size_t values = plan.ends.size() + plan.moves.size();
        for (const gpu::SeqStart& start : plan.starts)
          values += start.history.size() + start.sampling.end_tokens.size();
        for (const gpu::SeqStep& step : plan.sequences) values += step.tokens.size();
        BOOST_TEST(values * sizeof(int32_t) <= most);
        decoded++;
      } catch (const kj::Exception&) {
        threw++;
      } catch (const std::runtime_error&) {  // an unknown way of a move
        threw++;
      }
    }
  BOOST_TEST(threw > 0u);
  BOOST_TEST(decoded > 0u);
}

BOOST_AUTO_TEST_CASE(a_fault_behind_other_tokens_is_told_with_its_place) {
  const auto token = [](int32_t id, gpu::RowFault fault = gpu::RowFault::none) {
    return gpu::SampledToken{.id = id, .fault = fault};
  };
  using gpu::RowFault;
  const gpu::StepResult result{
      .epoch = 2,
      .step = 5,
      .sequences = {{0, {token(7)}},
                    {3, {token(8), token(9), token(0, RowFault::all_masked), token(0, RowFault::not_finite)}},
                    {4, {token(0, RowFault::not_finite), token(6)}}}};
  const gpu::StepResult own = decode(encode(result));
  BOOST_TEST(own.epoch == 2u);
  BOOST_TEST(own.step == 5u);
  BOOST_REQUIRE(own.sequences.size() == 3u);
  const auto faults = [&](size_t i) {
    std::vector<RowFault> all;
    for (const gpu::SampledToken& t : own.sequences[i].tokens) all.push_back(t.fault);
    return all;
  };
  BOOST_TEST(own.sequences[1].tokens.at(1).id == 9);
  BOOST_TEST((faults(0) == std::vector{RowFault::none}));
  // Nobody comes behind the first.
  BOOST_TEST(
      (faults(1) == std::vector{RowFault::none, RowFault::none, RowFault::all_masked, RowFault::all_masked}));
  BOOST_TEST((faults(2) == std::vector{RowFault::not_finite, RowFault::not_finite}));
}

BOOST_AUTO_TEST_CASE(a_fault_of_a_token_that_is_not_there_is_refused) {
  msg::FrameBuilder<msg::StepResult> frame;
  auto sequence = frame->initSequences(1)[0];
  sequence.initTokens(2);
  sequence.setFault(msg::RowFault::NOT_FINITE);
  sequence.setFaultRow(2);
  BOOST_CHECK_EXCEPTION(decode(std::move(frame).finish()), std::runtime_error,
                        [](const std::runtime_error& e) {
                          return std::string(e.what()).find("token 2 of 2") != std::string::npos;
                        });
}
