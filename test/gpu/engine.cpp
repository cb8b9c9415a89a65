#include "gpu/engine.hpp"

#include <boost/test/unit_test.hpp>
#include <cstring>
#include <limits>
#include <set>

#include "test/gpu/tiny_model.hpp"

using namespace convoy;
using namespace convoy::gpu;
using namespace convoy::gpu::test;

namespace {

std::unique_ptr<Engine> engine_of(model::LayerRange range = {0, 2}, EngineLimits limits = tiny_limits) {
  return std::make_unique<Engine>(cpu_device(Kernels::reference, 1),
                                  std::make_shared<TinyCheckpoint>(model::DType::f32), range, limits);
}

/// Slot 1 with three prompt tokens in block 5.
StepPlan three_tokens(const model::Sampling& sampling = {}) {
  return {.epoch = 4,
          .step = 9,
          .starts = {{1, 3, sampling}},
          .block_changes = {{1, 0, 5}},
          .sequences = {{1, 0, {10, 20, 30}, 1}}};
}

/// The tokens an engine generates after three_tokens.
std::vector<int32_t> generate(Engine& engine, const model::Sampling& sampling, uint32_t count) {
  std::vector<int32_t> tokens;
  StepOutput out = engine.run(three_tokens(sampling), {});
  for (uint32_t i = 0; i < count; i++) {
    tokens.push_back(out.result.sequences.at(0).tokens.at(0).id);
    out = engine.run({.sequences = {{1, 3 + i, {tokens.back()}, 1}}}, {});
  }
  return tokens;
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_result_names_its_epoch_step_and_slots) {
  const auto engine = engine_of();
  StepPlan plan = three_tokens();
  plan.starts.push_back({0, 2, {}});
  plan.block_changes.push_back({0, 0, 6});
  plan.sequences.insert(plan.sequences.begin(), {0, 0, {1, 2}, 0});
  const StepOutput out = engine->run(plan, {});
  BOOST_TEST(out.result.epoch == 4u);
  BOOST_TEST(out.result.step == 9u);
  BOOST_TEST(out.hidden.empty());
  BOOST_REQUIRE(out.result.sequences.size() == 1u);
  BOOST_TEST(out.result.sequences[0].slot == 1u);
  BOOST_TEST(out.result.sequences[0].tokens.size() == 1u);
}

BOOST_AUTO_TEST_CASE(a_draft_samples_each_of_its_rows) {
  const auto engine = engine_of();
  const auto one_by_one = generate(*engine, {}, 5);
  StepPlan plan = three_tokens();
  plan.sequences[0].tokens.append(one_by_one.begin(), one_by_one.end() - 1);
  plan.sequences[0].sampled_rows = 5;
  const StepOutput out = engine->run(plan, {});
  std::vector<int32_t> at_once;
  for (const SampledToken& token : out.result.sequences.at(0).tokens) at_once.push_back(token.id);
  BOOST_TEST(at_once == one_by_one, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(penalties_see_the_prompt_and_what_was_generated) {
  const auto engine = engine_of();
  // A penalty this large leaves only tokens with positive logits, never a token seen before.
  const auto tokens = generate(*engine, {.repetition_penalty = 1e6f}, 20);
  std::set<int32_t> distinct(tokens.begin(), tokens.end());
  BOOST_TEST(distinct.size() == 20u);
  for (int32_t prompt : {10, 20, 30}) BOOST_TEST(!distinct.contains(prompt));
}

BOOST_AUTO_TEST_CASE(end_tokens_stay_away_until_min_tokens_were_generated) {
  const auto engine = engine_of();
  const int32_t natural = generate(*engine, {}, 1)[0];
  model::Sampling sampling{.min_tokens = 1, .end_tokens = {natural}};
  BOOST_TEST(generate(*engine, sampling, 1)[0] != natural);
  sampling.min_tokens = 0;
  BOOST_TEST(generate(*engine, sampling, 1)[0] == natural);
}

BOOST_AUTO_TEST_CASE(a_seeded_draw_is_the_same_in_a_draft_and_one_by_one) {
  const auto engine = engine_of();
  const model::Sampling sampling{.temperature = 1.5f, .top_p = 0.95f, .seed = 99};
  const auto one_by_one = generate(*engine, sampling, 6);
  StepPlan plan = three_tokens(sampling);
  plan.sequences[0].tokens.append(one_by_one.begin(), one_by_one.end() - 1);
  plan.sequences[0].sampled_rows = 6;
  const StepOutput out = engine->run(plan, {});
  for (size_t i = 0; i < 6; i++) BOOST_TEST(out.result.sequences.at(0).tokens.at(i).id == one_by_one[i]);
}

BOOST_AUTO_TEST_CASE(penalties_see_of_a_draft_what_comes_before_each_row) {
  const auto engine = engine_of();
  const model::Sampling sampling{.frequency_penalty = 2, .repetition_penalty = 1e6f};
  const auto one_by_one = generate(*engine, sampling, 6);
  StepPlan plan = three_tokens(sampling);
  plan.sequences[0].tokens.append(one_by_one.begin(), one_by_one.end() - 1);
  // Rows within the prompt too: they know neither the rest of it nor what was generated.
  plan.sequences[0].sampled_rows = 8;
  const auto at_once = engine->run(plan, {}).result.sequences.at(0).tokens;
  for (size_t i = 0; i < 6; i++) BOOST_TEST(at_once.at(i + 2).id == one_by_one[i]);
  const std::vector<int32_t> prompt{10, 20, 30};
  for (uint32_t rows : {1, 2}) {
    plan = three_tokens(sampling);
    plan.sequences[0].tokens = TokenIds(prompt.begin(), prompt.begin() + rows);
    BOOST_TEST(engine->run(plan, {}).result.sequences.at(0).tokens.at(0).id == at_once[rows - 1].id);
  }
}

BOOST_AUTO_TEST_CASE(penalties_forget_what_was_written_over) {
  const model::Sampling sampling{.presence_penalty = 2, .repetition_penalty = 1e6f};
  const auto engine = engine_of();
  const auto expected = generate(*engine, sampling, 12);
  for (const uint32_t back : {0, 1, 3, 5}) {  // to positions of the prompt, and of what was generated
    StepPlan other = three_tokens(sampling);
    std::vector<int32_t> written{10, 50, 60};
    for (size_t i = 0; i < 9; i++) written.push_back(expected[i] ^ 1);
    std::vector<int32_t> all{10, 20, 30};
    all.insert(all.end(), expected.begin(), expected.end());
    std::copy_n(all.begin(), back, written.begin());
    other.sequences[0].tokens = written;
    engine->run(other, {});
    const auto tail = std::vector<int32_t>(all.begin() + back, all.end() - 1);
    const auto out = engine->run({.sequences = {{1, back, tail, 1}}}, {});
    BOOST_TEST(out.result.sequences.at(0).tokens.at(0).id == expected.back(), "back to position " << back);
  }
}

BOOST_AUTO_TEST_CASE(penalties_forget_the_sequences_that_the_slot_held_before) {
  const model::Sampling sampling{.presence_penalty = 2, .repetition_penalty = 1e6f};
  const auto expected = generate(*engine_of(), sampling, 12);
  const auto engine = engine_of();
  StepPlan before = three_tokens(sampling);
  before.sequences[0].tokens = expected;  // all that comes below was there once
  engine->run(before, {});
  generate(*engine, {}, 1);  // counts nothing, and takes nothing back that was counted
  BOOST_TEST(generate(*engine, sampling, 12) == expected, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(tokens_fed_back_from_the_last_stage_to_the_first_give_the_same_answer) {
  const model::Sampling sampling{.temperature = 1.5f, .repetition_penalty = 1.2f, .seed = 5};
  const auto alone = engine_of(), first = engine_of({0, 0}), last = engine_of({1, 2});
  const auto expected = generate(*alone, sampling, 20);
  std::vector<int32_t> tokens;
  StepPlan plan = three_tokens(sampling);
  for (uint32_t i = 0; i < 20; i++) {
    BOOST_REQUIRE(first->resolve(plan));
    const StepResult result = last->run(plan, first->run(plan, {}).hidden).result;
    tokens.push_back(result.sequences.at(0).tokens.at(0).id);
    plan = {.epoch = 4, .step = plan.step + 1, .sequences = {{1, 3 + i, {token_fed_back}, 1}}};
    BOOST_TEST(!first->resolve(plan));
    first->feed_back(result);
  }
  BOOST_TEST(tokens == expected, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(a_stage_alone_knows_its_tokens_itself) {
  const auto engine = engine_of();
  const int32_t id = engine->run(three_tokens(), {}).result.sequences.at(0).tokens.at(0).id;
  StepPlan plan{.step = 10, .sequences = {{1, 3, {token_fed_back}, 1}}};
  BOOST_REQUIRE(engine->resolve(plan));
  BOOST_TEST(plan.sequences[0].tokens.at(0) == id);
}

BOOST_AUTO_TEST_CASE(a_token_is_fed_back_only_to_the_sequence_and_position_that_it_belongs_to) {
  const auto first = engine_of({0, 0});
  first->run(three_tokens(), {});
  const auto fed = [](uint32_t slot, uint64_t step) {
    return StepResult{.epoch = 4, .step = step, .sequences = {{slot, {{.id = 7}}}}};
  };
  StepPlan plan{.step = 10, .sequences = {{1, 3, {token_fed_back}, 1}}};
  for (const auto& stray : {fed(1, 8), fed(1, 10), fed(0, 9), fed(4000, 9)}) first->feed_back(stray);
  BOOST_TEST(!first->resolve(plan));
  first->feed_back(fed(1, 9));
  BOOST_REQUIRE(first->resolve(plan));
  BOOST_TEST(plan.sequences[0].tokens.at(0) == 7);
  for (const SeqStep& wrong : {SeqStep{1, 2, {token_fed_back}, 1}, SeqStep{0, 3, {token_fed_back}, 1}}) {
    StepPlan other{.step = 10, .sequences = {wrong}};
    BOOST_CHECK_THROW(first->resolve(other), std::runtime_error);
  }
  first->run({.step = 10, .sequences = {{1, 3, {7}, 0}}}, {});  // samples nothing that could come back
  StepPlan after{.step = 11, .sequences = {{1, 4, {token_fed_back}, 1}}};
  BOOST_CHECK_THROW(first->resolve(after), std::runtime_error);
}

BOOST_AUTO_TEST_CASE(a_token_fed_back_behind_a_draft_is_the_one_behind_its_last_row) {
  const auto engine = engine_of();
  StepPlan draft = three_tokens();
  draft.sequences[0].tokens = {10, 20, 30, 40, 50};
  draft.sequences[0].sampled_rows = 3;
  const auto sampled = engine->run(draft, {}).result.sequences.at(0).tokens;
  StepPlan plan{.step = 10, .sequences = {{1, 5, {token_fed_back}, 1}}};
  BOOST_REQUIRE(engine->resolve(plan));
  BOOST_TEST(plan.sequences[0].tokens.at(0) == sampled.at(2).id);
  // Where not all of it was accepted, tokens have to be said.
  for (const uint32_t position : {3, 4}) {
    StepPlan other{.step = 10, .sequences = {{1, position, {token_fed_back}, 1}}};
    BOOST_CHECK_THROW(engine->resolve(other), std::runtime_error);
  }
  const auto next = engine->run({.step = 10, .sequences = {{1, 3, {sampled[0].id}, 1}}}, {}).result;
  StepPlan after{.step = 11, .sequences = {{1, 4, {token_fed_back}, 1}}};
  BOOST_REQUIRE(engine->resolve(after));
  BOOST_TEST(after.sequences[0].tokens.at(0) == next.sequences.at(0).tokens.at(0).id);
}

BOOST_AUTO_TEST_CASE(a_step_without_rows_only_changes_slots) {
  const auto engine = engine_of();
  engine->run(three_tokens(), {});
  const StepOutput out = engine->run({.epoch = 1, .step = 2, .ends = {1}}, {});
  BOOST_TEST(out.result.step == 2u);
  BOOST_TEST(out.result.sequences.empty());
  BOOST_CHECK_THROW(engine->run({.sequences = {{1, 3, {1}, 1}}}, {}), std::runtime_error);
}

BOOST_AUTO_TEST_CASE(reset_forgets_all_sequences) {
  const auto engine = engine_of();
  engine->run(three_tokens(), {});
  engine->reset();
  BOOST_CHECK_THROW(engine->run({.sequences = {{1, 3, {1}, 1}}}, {}), std::runtime_error);
  BOOST_TEST(engine->run(three_tokens(), {}).result.sequences.size() == 1u);
}

BOOST_AUTO_TEST_CASE(a_started_slot_forgets_what_it_held) {
  const auto engine = engine_of();
  engine->run(three_tokens(), {});
  StepPlan plan = three_tokens();
  plan.block_changes.clear();
  BOOST_CHECK_THROW(engine->run(plan, {}), std::runtime_error);
}

// The engine refuses such a plan itself, so the device is asked behind its back.
BOOST_AUTO_TEST_CASE(a_device_too_forgets_which_blocks_a_slot_had_when_it_starts_and_at_reset) {
  Device* device = nullptr;
  const auto open = [&](const StageShape& shape) {
    auto opened = cpu_device(Kernels::reference, 1)(shape);
    device = opened.get();
    return opened;
  };
  Engine engine(open, std::make_shared<TinyCheckpoint>(model::DType::f32), {0, 2}, tiny_limits);
  engine.run(three_tokens(), {});
  const SlotStart start{.slot = 1, .prompt_tokens = 3};
  const SlotRows rows{.slot = 1, .rows = 3, .sampled_rows = 1};
  const int32_t ids[] = {10, 20, 30};
  const auto submit = [&](std::span<const SlotStart> starts) {
    device->submit({.number = 2, .starts = starts, .sequences = {&rows, 1}, .ids = ids});
  };
  BOOST_CHECK_THROW(submit({&start, 1}), std::runtime_error);
  engine.run(three_tokens(), {});
  engine.reset();
  BOOST_CHECK_THROW(submit({}), std::runtime_error);
}

BOOST_AUTO_TEST_CASE(plans_that_break_a_rule_are_refused_with_the_values) {
  const auto refused = [](const StepPlan& plan, const std::string& words, std::vector<float> input = {}) {
    const auto engine = engine_of();
    engine->run(three_tokens(), {});
    BOOST_TEST_CONTEXT(words) {
      BOOST_CHECK_EXCEPTION(engine->run(plan, input), std::runtime_error, [&](const std::runtime_error& e) {
        BOOST_TEST_MESSAGE(e.what());
        return std::string(e.what()).find(words) != std::string::npos;
      });
    }
  };
  const auto rows = [](SeqStep step) { return StepPlan{.sequences = {std::move(step)}}; };
  refused({.starts = {{4, 1, {}}}}, "slot 4 of 4");
  refused({.starts = {{0, 0, {}}}}, "prompt of 0 tokens");
  refused({.starts = {{0, 513, {}}}}, "prompt of 513 tokens");
  refused({.starts = {{0, 1, {.temperature = -1}}}}, "temperature");
  refused({.starts = {{0, 1, {.end_tokens = {160}}}}}, "end token 160");
  refused({.block_changes = {{0, 0, 0}}}, "slot 0 holds no sequence");
  refused({.block_changes = {{7, 0, 0}}}, "slot 7 of 4");
  refused({.block_changes = {{1, 8, 0}}}, "index 8 of 8");
  refused({.block_changes = {{1, 0, 24}}}, "block 24 of 24");
  refused(rows({0, 0, {1}, 1}), "slot 0 holds no sequence");
  refused(rows({4000000000u, 0, {1}, 1}), "slot 4000000000 of 4");
  refused(rows({1, 3, {}, 0}), "brings no token");
  refused(rows({1, 4, {1}, 1}), "continues at position 4, its cache ends at 3");
  refused(rows({1, 4294967295u, {1}, 1}), "continues at position 4294967295");
  refused(rows({1, 3, {1}, 2}), "samples 2 of 1 rows");
  refused(rows({1, 3, {160}, 1}), "token 160");
  refused(rows({1, 3, {-1}, 1}), "token -1");
  refused(rows({1, 3, std::vector<int32_t>(513, 1), 1}), "513 rows, rows_per_step is 512");
  refused(rows({1, 3, std::vector<int32_t>(510, 1), 1}), "reaches 513 tokens, context is 512");
  refused(rows({1, 3, std::vector<int32_t>(62, 1), 1}), "slot 1 has no block 1 for positions below 65");
  refused({.sequences = {{1, 3, {1}, 1}, {1, 3, {1}, 1}}}, "slot");
  refused(
      {.starts = {{0, 1, {}}}, .block_changes = {{0, 0, 5}}, .sequences = {{0, 0, {1}, 1}, {1, 3, {1}, 1}}},
      "block 5 is written by slots 0 and 1");
  refused(rows({1, 3, {1}, 1}), "input of 20 bytes, 0 expected", std::vector<float>(5));
  refused({.ends = {0}}, "slot 0 holds no sequence");
}

BOOST_AUTO_TEST_CASE(a_slot_comes_once_in_a_step_even_if_it_writes_other_blocks) {
  const auto engine = engine_of();
  const std::vector<int32_t> prompt(kv_block_tokens, 1);
  engine->run({.starts = {{1, kv_block_tokens, {}}},
               .block_changes = {{1, 0, 5}, {1, 1, 6}},
               .sequences = {{1, 0, prompt, 0}}},
              {});
  const StepPlan twice{.sequences = {{1, 0, prompt, 0}, {1, kv_block_tokens, {1}, 1}}};
  BOOST_CHECK_EXCEPTION(engine->run(twice, {}), std::runtime_error, [](const std::runtime_error& e) {
    return std::string(e.what()).find("slot 1 comes twice") != std::string::npos;
  });
}

BOOST_AUTO_TEST_CASE(a_later_stage_wants_exactly_its_rows) {
  const auto stage = engine_of({1, 2});
  BOOST_CHECK_THROW(stage->run(three_tokens(), std::vector<float>(3 * 128 - 1)), std::runtime_error);
  BOOST_TEST(stage->run(three_tokens(), std::vector<float>(3 * 128, 0.5f)).result.sequences.size() == 1u);
}

BOOST_AUTO_TEST_CASE(hidden_states_that_are_not_finite_end_in_a_fault_and_not_in_a_token) {
  const auto stage = engine_of({1, 2});
  std::vector<float> input(3 * 128, 0.5f);
  input[300] = std::numeric_limits<float>::quiet_NaN();
  const auto result = stage->run(three_tokens(), input).result;
  BOOST_TEST((result.sequences.at(0).fault() == RowFault::not_finite));
}

BOOST_AUTO_TEST_CASE(limits_and_layers_that_the_model_does_not_have_are_refused) {
  EngineLimits limits = tiny_limits;
  limits.context_tokens = 513;
  BOOST_CHECK_THROW(engine_of({0, 2}, limits), InputError);
  limits = tiny_limits;
  limits.slots = 0;
  BOOST_CHECK_THROW(engine_of({0, 2}, limits), InputError);
  limits = tiny_limits;
  for (const model::DType type : {model::DType::q8_0, model::DType::i8, model::DType::i64}) {
    limits.kv_type = type;
    BOOST_CHECK_THROW(engine_of({0, 2}, limits), InputError);
  }
  for (model::LayerRange range : {model::LayerRange{0, 3}, {2, 1}, {-1, 0}})
    BOOST_CHECK_THROW(engine_of(range), InputError);
}

/// A model whose embedding of one token is not a number, so that rows of that token give no finite logit.
class PoisonedCheckpoint final : public model::Checkpoint {
 public:
  static constexpr int32_t poison = 77;

  explicit PoisonedCheckpoint(Tiny kind) : sound_(model::DType::f32, kind) {
    const model::Tensor sound = *sound_.stage({0, 0}).embedding;
    auto bytes = std::make_shared<std::vector<std::byte>>(sound.bytes.begin(), sound.bytes.end());
    const float bad = std::numeric_limits<float>::quiet_NaN();
    std::memcpy(bytes->data() + sound.row_bytes() * poison, &bad, sizeof bad);
    embedding_ = sound;
    embedding_.bytes = *bytes;
    embedding_.owner = std::shared_ptr<const model::Mapping>(bytes, nullptr);
  }
  const model::Config& config() const override { return sound_.config(); }
  model::StageWeights stage(model::LayerRange range) const override {
    model::StageWeights weights = sound_.stage(range);
    if (weights.embedding) weights.embedding = embedding_;
    return weights;  // the head stays sound
  }
  model::StageWeights layout(model::LayerRange range) const override { return stage(range); }
  uint64_t prediction_parameters() const override { return 0; }
  std::string weights_digest(std::stop_token) const override { return "poisoned"; }
  const model::NamedFiles& files() const override { return sound_.files(); }
  const std::filesystem::path& path() const override { return sound_.path(); }
  bool is_gguf() const override { return false; }
  const std::map<std::string, model::GgufValue, std::less<>>& metadata() const override {
    return sound_.metadata();
  }

 private:
  TinyCheckpoint sound_;
  model::Tensor embedding_;
};

// Neither in the same step, nor later in the blocks that the bad one leaves behind.
BOOST_AUTO_TEST_CASE(a_row_that_is_not_finite_ends_itself_and_touches_no_other) {
  for (const Tiny kind : {Tiny::llama, Tiny::deepseek})
    for (const Kernels kernels : {Kernels::reference, Kernels::fast})
      BOOST_TEST_CONTEXT((kind == Tiny::llama ? "llama" : "deepseek")
                         << (kernels == Kernels::fast ? ", fast" : ", reference")) {
        const auto checkpoint = std::make_shared<PoisonedCheckpoint>(kind);
        const auto engine = [&] {
          return std::make_unique<Engine>(cpu_device(kernels, 1), checkpoint, model::LayerRange{0, 2},
                                          tiny_limits);
        };
        const StepPlan alone = three_tokens();
        const auto expected = engine()->run(alone, {}).result.sequences.at(0).tokens.at(0);
        BOOST_REQUIRE((expected.fault == RowFault::none));

        const auto shared = engine();
        StepPlan plan = three_tokens();
        plan.starts.push_back({2, 60, {}});
        plan.block_changes.push_back({2, 0, 6});
        plan.sequences.push_back({2, 0, std::vector<int32_t>(60, PoisonedCheckpoint::poison), 1});
        const auto result = shared->run(plan, {}).result;
        BOOST_TEST(result.sequences.at(0).tokens.at(0).id == expected.id);
        BOOST_TEST((result.sequences.at(0).fault() == RowFault::none));
        BOOST_TEST((result.sequences.at(1).fault() == RowFault::not_finite));
        BOOST_TEST(result.sequences.at(1).tokens.at(0).id == 0);

        shared->run({.ends = {1, 2}}, {});
        StepPlan after = three_tokens();
        after.block_changes[0].block = 6;  // where the bad one's keys and values lie
        const auto again = shared->run(after, {}).result.sequences.at(0);
        BOOST_TEST((again.fault() == RowFault::none));
        BOOST_TEST(again.tokens.at(0).id == expected.id);
      }
}

BOOST_AUTO_TEST_CASE(a_draft_that_is_not_finite_leaves_what_comes_before_it_alone) {
  for (const Tiny kind : {Tiny::llama, Tiny::deepseek})
    for (const Kernels kernels : {Kernels::reference, Kernels::fast})
      BOOST_TEST_CONTEXT((kind == Tiny::llama ? "llama" : "deepseek")
                         << (kernels == Kernels::fast ? ", fast" : ", reference")) {
        EngineLimits limits = tiny_limits;
        limits.deterministic = true;
        const auto checkpoint = std::make_shared<PoisonedCheckpoint>(kind);
        Engine engine(cpu_device(kernels, 1), checkpoint, {0, 2}, limits);
        const auto expected = generate(engine, {}, 3);
        BOOST_REQUIRE(expected[1] != PoisonedCheckpoint::poison);
        engine.run(three_tokens(), {});
        const StepPlan draft{.sequences = {{1, 3, {expected[0], PoisonedCheckpoint::poison}, 2}}};
        const auto drafted = engine.run(draft, {}).result.sequences.at(0).tokens;
        BOOST_TEST((drafted.at(0).fault == RowFault::none));
        BOOST_TEST(drafted.at(0).id == expected[1]);
        BOOST_TEST((drafted.at(1).fault == RowFault::not_finite));
        const auto next = engine.run({.sequences = {{1, 4, {expected[1]}, 1}}}, {}).result.sequences.at(0);
        BOOST_TEST((next.fault() == RowFault::none));
        BOOST_TEST(next.tokens.at(0).id == expected[2]);
      }
}
