// A step works in memory that was taken before: nothing is allocated on its way through the layers, and what
// is taken before is what `convoy inspect` counts.

#include "test/allocations.hpp"
#include "gpu/block_tables.hpp"
#include "gpu/forward.hpp"
#include "test/gpu/tiny_model.hpp"

using namespace convoy;
using namespace convoy::gpu;
using namespace convoy::gpu::test;
using convoy::test::Allocations;
using model::DType;

namespace {

constexpr int threads = 3;

struct Case {
  Tiny kind;
  DType weights, kv;
  bool deterministic = false;
};
constexpr Case cases[] = {
    {Tiny::llama, DType::q8_0, DType::f32},     {Tiny::qwen2, DType::bf16, DType::bf16},
    {Tiny::deepseek, DType::bf16, DType::f16},  {Tiny::deepseek, DType::q4_0, DType::f32, true},
    {Tiny::llama, DType::f8_e4m3, DType::f16},  {Tiny::deepseek, DType::q8_0, DType::f8_e4m3},
    {Tiny::qwen2, DType::bf16, DType::f8_e4m3},
};

void for_each_case(auto body) {
  for (const Kernels kernels : {Kernels::reference, Kernels::fast}) {
    const BackendChoice choice{kernels, threads};
    for (const Case& c : cases) BOOST_TEST_CONTEXT(choice.name() << ", case " << &c - cases) {
        try {
          choice.make();
        } catch (const InputError& e) {
          BOOST_TEST_MESSAGE("without: " << e.what());
          continue;
        }
        body(choice, c);
      }
  }
}

/// Slot s has the blocks 8s, 8s + 1, …, enough for the context.
std::vector<BlockChange> blocks_of(uint32_t slot) {
  std::vector<BlockChange> changes;
  for (uint32_t i = 0; i < 8; i++) changes.push_back({slot, i, 8 * slot + i});
  return changes;
}

}  // namespace

BOOST_AUTO_TEST_CASE(bodies_of_loops_allocate_nothing) {
  for_each_case([](const BackendChoice& choice, const Case& c) {
    const auto checkpoint = std::make_shared<TinyCheckpoint>(c.weights, c.kind);
    EngineLimits limits = tiny_limits;
    limits.kv_type = c.kv, limits.deterministic = c.deterministic;
    Engine engine(choice.device(), checkpoint, {0, 2}, limits);
    StepPlan prompts;
    for (uint32_t slot = 0; slot < 2; slot++) {
      prompts.starts.push_back({slot, 400, {}});
      for (const BlockChange& change : blocks_of(slot)) prompts.block_changes.push_back(change);
    }
    prompts.sequences = {{0, 0, std::vector<int32_t>(400, 7), 1}, {1, 0, std::vector<int32_t>(100, 9), 3}};
    StepPlan decode;
    decode.sequences = {{0, 400, {3}, 1}, {1, 100, {4}, 1}};
    const Allocations of_workers(Allocations::Of::other_threads);  // which run nothing but bodies
    engine.run(prompts, {});
    engine.run(decode, {});
    BOOST_TEST(of_workers.count() == 0u);
  });
}

BOOST_AUTO_TEST_CASE(a_forward_pass_allocates_nothing_from_the_first_step_on) {
  for_each_case([](const BackendChoice& choice, const Case& c) {
    const TinyCheckpoint checkpoint(c.weights, c.kind);
    const model::Config& config = checkpoint.config();
    const auto backend = choice.make();
    constexpr int64_t rows = 400, context = 512;
    Forward forward(*backend, stage_shape(config, {0, 2}, c.deterministic));
    const model::StageWeights weights = checkpoint.stage({0, 2});
    for (size_t layer = 0; layer < weights.layers.size(); layer++)
      forward.load(static_cast<int64_t>(layer), parts_of(weights.layers[layer]));
    forward.load(-1, end_parts_of(weights));
    const RotationTable rotations(config.rope, config.head_dim, context);
    forward.open({24, 3, context, rows, c.kv}, rotations.view());
    BlockTables kv(24, 3, context);
    for (uint32_t slot = 0; slot < 3; slot++)
      for (const BlockChange& change : blocks_of(slot)) kv.map(change);

    using Step = std::vector<SequenceRows>;
    const auto part = [&](uint32_t slot, int64_t row, int64_t count, int64_t first) {
      return SequenceRows{row, count, first, kv.table(slot, first + count)};
    };
    const Step steps[] = {{part(0, 0, rows, 0)},                         // one long prompt
                          {part(0, 0, 112, 400), part(1, 112, 288, 0)},  // to the end of the context
                          {part(0, 0, 1, 511), part(1, 1, 1, 288), part(2, 2, 70, 0)}};
    for (const Step& step : steps) {
      std::vector<int32_t> ids(static_cast<size_t>(step.back().first_row + step.back().rows), 5), all;
      for (size_t i = 0; i < ids.size(); i++) all.push_back(static_cast<int32_t>(i));
      const Allocations any(Allocations::Of::all_threads);
      forward.begin(ids);
      forward.layers(step);
      forward.logits(all);
      const size_t count = any.count();
      BOOST_TEST(count == 0u, count << " allocations in the step of " << ids.size() << " rows");
    }
  });
}

BOOST_AUTO_TEST_CASE(sampling_allocates_nothing) {
  constexpr int64_t rows = 5, vocab = 5000;
  TensorMaker maker(3);
  TokenCounts counts;
  for (const int32_t id : {7, 8, 7, 4999}) counts.add(id, TokenCounts::Of::output);
  const model::Sampling samplings[rows] = {{},
                                           {.temperature = 1, .logprobs = true},
                                           {.temperature = 0.7f, .top_k = 40, .min_p = 0.01f},
                                           {.temperature = 2, .top_k = 3000, .top_p = 0.9f},
                                           {.temperature = 1, .top_p = 0.95f, .repetition_penalty = 1.1f}};
  std::vector<SampleRow> sample_rows;
  for (const model::Sampling& sampling : samplings) sample_rows.push_back({&sampling, 9, 3, &counts});
  for (const BackendChoice& choice : backends()) BOOST_TEST_CONTEXT(choice.name()) {
      const auto backend = choice.make();
      backend->reserve({.rows = rows, .columns = 32, .vocab = vocab});
      auto logits = maker.values(rows * vocab, 5);
      std::vector<SampledToken> sampled(rows);
      const Allocations any(Allocations::Of::all_threads);
      backend->sample({logits.data(), rows, vocab}, sample_rows, sampled);
      const size_t count = any.count();
      BOOST_TEST(count == 0u, count << " allocations");
    }
}

BOOST_AUTO_TEST_CASE(what_a_backend_reserves_is_what_is_counted) {
  for_each_case([](const BackendChoice& choice, const Case& c) {
    const TinyCheckpoint checkpoint(c.weights, c.kind);
    for (const int64_t context : {64, 512}) {
      const StepBounds bounds = step_bounds(stage_shape(checkpoint.config(), {0, 2}, c.deterministic),
                                            {.context_tokens = context, .rows = 300});
      const auto backend = choice.make();
      const Allocations taken(Allocations::Of::all_threads);
      backend->reserve(bounds);
      const size_t bytes = taken.bytes();
      const uint64_t counted = backend->reserved_bytes(bounds);
      BOOST_TEST(bytes >= counted);
      BOOST_TEST(bytes < counted + 4096, bytes << " bytes taken, " << counted << " counted");
    }
  });
}
