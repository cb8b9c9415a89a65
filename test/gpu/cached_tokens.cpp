// A sequence that begins behind cached tokens gives bit for bit what one gives that was computed from its
// first token on, whoever wrote the blocks and whoever else reads them.

#include <boost/test/unit_test.hpp>

#include "test/gpu/sequences.hpp"

using namespace convoy;
using namespace convoy::gpu;
using namespace convoy::gpu::test;
using model::DType;

namespace {

constexpr uint32_t answer_tokens = 8;

std::vector<int32_t> joined(std::span<const int32_t> a, std::span<const int32_t> b) {
  std::vector<int32_t> all(a.begin(), a.end());
  all.insert(all.end(), b.begin(), b.end());
  return all;
}

/// The answer to a prompt that an engine of its own computes from the first token on.
Answer computed(const EngineMaker& maker, const std::vector<int32_t>& prompt, const model::Sampling& sampling,
                uint32_t count = answer_tokens) {
  const auto engine = maker.make();
  Log log{.slot = 0, .prompt_tokens = prompt.size(), .tokens = prompt};
  engine->run(start_of(log, sampling, 0, {0, 1, 2, 3, 4}), {});
  return generate(*engine, log, count);
}

}  // namespace

BOOST_AUTO_TEST_CASE(behind_blocks_of_another_sequence_logits_and_tokens_are_those_of_all_rows) {
  for_each_engine([](const EngineMaker& maker) {
    const std::vector<int32_t> first = TensorMaker(61).ids(200, maker.vocab);
    for (const model::Sampling& sampling : samplings(maker)) {
      const auto engine = maker.make();
      // It goes on beside those that read its first blocks.
      Log writer{.slot = 0, .prompt_tokens = first.size(), .tokens = first};
      engine->run(start_of(writer, sampling, 0, {7, 2, 11, 4}), {});
      generate(*engine, writer, 1);
      uint32_t slot = 1;
      for (const auto& [blocks, rest] : {std::pair<size_t, size_t>{1, 1}, {2, 70}, {3, 5}}) {
        const size_t cached = blocks * kv_block_tokens;
        BOOST_TEST_CONTEXT(cached << " cached tokens and " << rest << " more") {
          const auto prompt = joined(std::span(first).first(cached), TensorMaker(62).ids(rest, maker.vocab));
          Log reader{.slot = slot, .prompt_tokens = prompt.size(), .tokens = prompt, .computed = cached};
          std::vector<uint32_t> table{7, 2, 11};
          table.resize(blocks);
          for (uint32_t own = 0; own < 2; own++) table.push_back(12 + slot * 2 + own);
          engine->run(start_of(reader, sampling, cached, table), {});
          const Answer own = generate(*engine, reader, answer_tokens, &writer);
          check_same(own, computed(maker, prompt, sampling));
        }
        slot++;
      }
      // The writer, too, is what it is alone.
      const size_t generated = writer.tokens.size() - first.size();
      const Answer alone = computed(maker, first, sampling, static_cast<uint32_t>(generated));
      BOOST_TEST(std::equal(alone.tokens.begin(), alone.tokens.end(),
                            writer.tokens.end() - static_cast<ptrdiff_t>(generated)));
    }
  });
}

BOOST_AUTO_TEST_CASE(a_sequence_that_lost_its_slot_goes_on_behind_its_blocks_with_what_it_generated) {
  for_each_engine([](const EngineMaker& maker) {
    for (const model::Sampling& sampling : samplings(maker))
      // The cached tokens end within the prompt, at its end, behind it, and behind all of its rows but one.
      for (const auto& [prompt_tokens, cached] :
           {std::pair<size_t, size_t>{100, 64}, {64, 64}, {60, 64}, {60, 71}, {60, 0}})
        BOOST_TEST_CONTEXT("a prompt of " << prompt_tokens << ", " << cached << " cached tokens") {
          const std::vector<int32_t> prompt = TensorMaker(63).ids(prompt_tokens, maker.vocab);
          const Answer expected = computed(maker, prompt, sampling, 12 + answer_tokens);
          const auto engine = maker.make();
          Log log{.slot = 0, .prompt_tokens = prompt.size(), .tokens = prompt};
          engine->run(start_of(log, sampling, 0, {9, 3}), {});
          generate(*engine, log, 12);
          engine->run({.ends = {0}}, {});
          log.slot = 3, log.computed = cached;
          engine->run(start_of(log, sampling, cached, {9, 3}), {});
          const Answer own = generate(*engine, log, answer_tokens);
          check_same(own, expected.last(answer_tokens));
        }
  });
}

BOOST_AUTO_TEST_CASE(sequences_that_begin_behind_the_same_blocks_share_a_step) {
  for_each_engine([](const EngineMaker& maker) {
    const std::vector<int32_t> prefix = TensorMaker(64).ids(64, maker.vocab);
    const auto all = samplings(maker);
    const auto engine = maker.make();
    Log writer{.slot = 0, .prompt_tokens = 64, .tokens = prefix};
    engine->run(start_of(writer, {}, 0, {5}), {});
    generate(*engine, writer, 1);
    engine->run({.ends = {0}}, {});
    StepPlan plan;
    for (uint32_t slot = 0; slot < 3; slot++) {
      const auto tail = TensorMaker(65 + slot).ids(1 + slot * 9, maker.vocab);
      const Log log{.slot = slot, .prompt_tokens = 64 + tail.size(), .tokens = joined(prefix, tail)};
      const StepPlan start = start_of(log, all[slot], 64, {5, 8 + slot});
      plan.starts.push_back(start.starts[0]);
      std::ranges::copy(start.block_changes, std::back_inserter(plan.block_changes));
      plan.sequences.push_back({slot, 64, tail, 1});
    }
    const auto result = engine->run(plan, {}).result;
    for (uint32_t slot = 0; slot < 3; slot++) {
      const Answer expected = computed(maker, joined(prefix, plan.sequences[slot].tokens), all[slot], 1);
      BOOST_TEST(result.sequences.at(slot).tokens.at(0).id == expected.tokens[0]);
    }
  });
}

// What the tests above hold to be equal does depend on the blocks and on the history.
BOOST_AUTO_TEST_CASE(other_blocks_or_another_history_give_another_answer) {
  for_each_engine([](const EngineMaker& maker) {
    const std::vector<int32_t> prompt = TensorMaker(66).ids(130, maker.vocab);
    const model::Sampling penalised{.repetition_penalty = 1e6f};
    const auto engine = maker.make();
    Log writer{.slot = 0, .prompt_tokens = 130, .tokens = prompt};
    engine->run(start_of(writer, penalised, 0, {7, 2, 11}), {});
    const Answer expected = generate(*engine, writer, 4);
    const auto behind = [&](const std::vector<uint32_t>& table, std::vector<int32_t> history) {
      Log reader{.slot = 1, .prompt_tokens = 130, .tokens = prompt, .computed = 128};
      StepPlan start = start_of(reader, penalised, 128, table);
      start.starts[0].history = std::move(history);
      engine->run(start, {});
      return generate(*engine, reader, 4);
    };
    const std::vector<int32_t> history(prompt.begin(), prompt.begin() + 128);
    check_same(behind({7, 2, 12}, history), expected);
    BOOST_TEST((behind({2, 7, 12}, history).logits != expected.logits));
    std::vector<int32_t> other = history;
    other[3] = expected.tokens[0];
    BOOST_TEST(behind({7, 2, 12}, other).tokens[0] != expected.tokens[0]);
  });
}

BOOST_AUTO_TEST_CASE(stages_of_a_pipeline_begin_behind_cached_tokens_alike) {
  const EngineMaker maker = makers().front();
  const std::vector<int32_t> prompt = TensorMaker(67).ids(70, maker.vocab);
  const model::Sampling sampling{.temperature = 1, .frequency_penalty = 1.5f, .seed = 3};
  const Answer expected = computed(maker, prompt, sampling, 6);
  const auto first = maker.make({0, 0}), last = maker.make({1, 2});
  const auto run = [&](StepPlan plan) {
    BOOST_REQUIRE(first->resolve(plan));
    const StepResult result = last->run(plan, first->run(plan, {}).hidden).result;
    first->feed_back(result);
    return result;
  };
  Log log{.slot = 0, .prompt_tokens = 70, .tokens = prompt};
  StepPlan plan = start_of(log, sampling, 0, {4, 5});
  plan.sequences = {{0, 0, prompt, 0}};
  run(plan);
  plan = start_of(log, sampling, 64, {4, 6});
  plan.starts[0].slot = plan.block_changes[0].slot = plan.block_changes[1].slot = 2;
  plan.step = 1, plan.sequences = {{2, 64, {prompt.begin() + 64, prompt.end()}, 1}};
  std::vector<int32_t> tokens;
  for (uint32_t i = 0; i < 6; i++) {
    tokens.push_back(run(plan).sequences.at(0).tokens.at(0).id);
    plan = {.step = 2 + i, .sequences = {{2, 70 + i, {token_fed_back}, 1}}};
  }
  BOOST_TEST(tokens == expected.tokens, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(starts_behind_cached_tokens_that_cannot_be_are_refused_with_the_values) {
  const EngineMaker maker = makers().front();
  const model::Sampling penalised{.presence_penalty = 1};
  const auto start = [](const model::Sampling& sampling, uint32_t cached, std::vector<int32_t> history) {
    return StepPlan{.starts = {{1, 70, sampling, cached, std::move(history)}},
                    .block_changes = {{1, 0, 5}, {1, 1, 6}}};
  };
  const auto ids = [](size_t count, int32_t last = 1) {
    std::vector<int32_t> history(count, 1);
    history.back() = last;
    return history;
  };
  const auto refused = [&](const StepPlan& plan, const std::string& words) {
    BOOST_TEST_CONTEXT(words) {
      BOOST_CHECK_EXCEPTION(maker.make()->run(plan, {}), std::runtime_error,
                            [&](const std::runtime_error& e) {
                              BOOST_TEST_MESSAGE(e.what());
                              return std::string(e.what()).find(words) != std::string::npos;
                            });
    }
  };
  refused(start({}, 512, {}), "slot 1 begins behind 512 cached tokens, context is 512");
  refused(start({}, 4294967295u, {}), "slot 1 begins behind 4294967295 cached tokens, context is 512");
  refused(start(penalised, 64, {}), "slot 1 begins behind 64 cached tokens with a history of 0");
  refused(start(penalised, 64, ids(63)), "slot 1 begins behind 64 cached tokens with a history of 63");
  refused(start({}, 64, ids(65)), "slot 1 begins behind 64 cached tokens with a history of 65");
  refused(start(penalised, 0, ids(1)), "slot 1 begins behind 0 cached tokens with a history of 1");
  refused(start(penalised, 64, ids(64, 160)), "the history of slot 1 has token 160, vocabulary is 160");
  refused(start({}, 64, ids(64, token_fed_back)), "the history of slot 1 has token -1");
  const auto with_rows = [&](SeqStep rows) {
    StepPlan plan = start(penalised, 64, ids(64));
    plan.sequences = {std::move(rows)};
    return plan;
  };
  refused(with_rows({1, 65, {1}, 1}), "slot 1 continues at position 65, its cache ends at 64");
  refused(with_rows({1, 63, {1, 1}, 1}), "slot 1 writes position 63, it began behind 64 cached tokens");
  StepPlan hole = with_rows({1, 64, {1}, 1});
  hole.block_changes = {{1, 1, 6}};
  refused(hole, "slot 1 has no block 0 for positions below 65");
  const auto engine = maker.make();
  engine->run(with_rows({1, 64, {1}, 1}), {});  // and this one can
  engine->run(start({}, 511, {}), {});
  StepPlan fed{.sequences = {{1, 511, {token_fed_back}, 1}}};
  BOOST_CHECK_THROW(engine->resolve(fed), std::runtime_error);  // it has sampled nothing
}
