// Tokens that the CUDA device samples are those that the CPU's sampler picks from the same logits, and what
// it feeds back to itself is what it sampled.

#include "gpu/sampler.hpp"
#include "test/cuda/rig.hpp"

using namespace convoy;
using namespace convoy::gpu;
using namespace convoy::gpu::test;
using cuda::Activations;
using model::Sampling;

namespace {

/// Parameters of every kind, alone and together.
std::vector<Sampling> ways(uint32_t seed) {
  std::mt19937 random(seed);
  const auto uniform = [&](float low, float high) {
    return std::uniform_real_distribution<float>(low, high)(random);
  };
  std::vector<Sampling> all{{},
                            {.temperature = 1},
                            {.temperature = 1, .top_k = 1},
                            {.temperature = 1, .top_k = 7},
                            {.temperature = 1, .top_p = 0.5f},
                            {.temperature = 0.3f, .top_p = 1e-6f},
                            {.temperature = 2, .min_p = 0.1f},
                            {.repetition_penalty = 1.7f},
                            {.presence_penalty = 1.5f},
                            {.frequency_penalty = -1.1f},
                            {.logprobs = true},
                            {.logprobs = true, .top_logprobs = 20},
                            {.min_tokens = 1000, .end_tokens = {0, 5, 9}}};
  while (all.size() < 48) {
    Sampling s{.temperature = uniform(0, 1) < 0.2f ? 0 : uniform(0.05f, 2.5f)};
    if (random() % 2) s.top_k = random() % 200;
    if (random() % 2) s.top_p = uniform(0.01f, 1);
    if (random() % 3 == 0) s.min_p = uniform(0, 0.3f);
    if (random() % 3 == 0) s.presence_penalty = uniform(-2, 2), s.frequency_penalty = uniform(-2, 2);
    if (random() % 3 == 0) s.repetition_penalty = uniform(0.5f, 2);
    if (random() % 2) s.logprobs = true, s.top_logprobs = random() % 21;
    if (random() % 4 == 0)
      s.min_tokens = random() % 12, s.end_tokens = {static_cast<int32_t>(random() % 300), 2, 1};
    all.push_back(s);
  }
  for (Sampling& s : all) s.seed = random();
  return all;
}

void same(const SampledToken& own, const SampledToken& expected) {
  BOOST_TEST(own.id == expected.id);
  BOOST_TEST(own.logprob == expected.logprob);
  BOOST_TEST((own.fault == expected.fault));
  BOOST_REQUIRE(own.top.size() == expected.top.size());
  for (size_t i = 0; i < own.top.size(); i++) {
    BOOST_TEST(own.top[i].id == expected.top[i].id);
    BOOST_TEST(own.top[i].logprob == expected.top[i].logprob);
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(the_same_logits_give_the_same_tokens) {
  if (!find_library()) return;
  for (const int64_t vocab : {300, 1023, 40000}) {
    const uint32_t seed = fresh_seed();
    const ModelShape shape{.name = "llama", .layers = 1, .vocab = vocab};
    const auto checkpoint = std::make_shared<ShapedCheckpoint>(shape, seed);
    const std::vector<Sampling> all = ways(seed);
    std::vector<size_t> lengths;
    for (size_t i = 0; i < all.size(); i++) lengths.push_back(1 + (seed + i * 7) % 13);
    const auto feeds = feeds_of(lengths, vocab, seed);
    Engine engine(on_card(Activations::f32), checkpoint, {0, 0}, limits_of());
    engine.keep_logits(true);
    StepPlan plan = start(feeds);
    std::vector<std::vector<int32_t>> tokens;
    std::vector<TokenCounts> counts(all.size());
    for (size_t i = 0; i < all.size(); i++) {
      plan.starts[i].sampling = all[i];
      plan.sequences.push_back({feeds[i].slot, 0, feeds[i].tokens, 1});
      tokens.push_back(feeds[i].tokens);
      for (const int32_t id : tokens[i]) counts[i].add(id, TokenCounts::Of::prompt);
    }
    for (int round = 0; round < 12; round++) {
      const StepResult result = engine.run(plan, {}).result;
      StepPlan next{.step = plan.step + 1};
      for (size_t i = 0; i < all.size(); i++)
        BOOST_TEST_CONTEXT("vocab " << vocab << ", seed " << seed << ", way " << i << ", round " << round) {
          const auto row =
              engine.logits().subspan(i * static_cast<size_t>(vocab), static_cast<size_t>(vocab));
          std::vector<float> logits(row.begin(), row.end());
          std::vector<uint64_t> scratch(sample_scratch_bytes(vocab) / 8 + 9);
          void* room = scratch.data();
          size_t space = scratch.size() * 8;
          std::align(64, sample_scratch_bytes(vocab), room, space);
          const SampleRow of{.sampling = &all[i],
                             .position = tokens[i].size(),
                             .generated = static_cast<uint32_t>(tokens[i].size() - lengths[i]),
                             .counts = &counts[i]};
          const SampledToken own = result.sequences[i].tokens[0];
          same(own, sample_token(logits, of, static_cast<std::byte*>(room)));
          next.sequences.push_back({feeds[i].slot, static_cast<uint32_t>(tokens[i].size()), {own.id}, 1});
          tokens[i].push_back(own.id), counts[i].add(own.id, TokenCounts::Of::output);
        }
      plan = std::move(next);
    }
  }
}

BOOST_AUTO_TEST_CASE(drafts_are_sampled_by_what_came_before_each) {
  if (!find_library()) return;
  const uint32_t seed = fresh_seed();
  const ModelShape shape{.name = "llama", .layers = 1, .vocab = 500};
  const auto checkpoint = std::make_shared<ShapedCheckpoint>(shape, seed);
  const auto feeds = feeds_of({9}, shape.vocab, seed);
  const std::vector<int32_t> draft{7, 7, 8, 7, 499};
  const auto run = [&](const DeviceFactory& device) {
    Engine engine(device, checkpoint, {0, 0}, limits_of());
    StepPlan plan = start(feeds);
    plan.starts[0].sampling = {.temperature = 1,
                               .presence_penalty = 1,
                               .frequency_penalty = 0.5f,
                               .repetition_penalty = 1.3f,
                               .seed = seed};
    plan.sequences = {{feeds[0].slot, 0, feeds[0].tokens, 4}};
    std::vector<int32_t> ids;
    const StepPlan drafted{.step = 1, .sequences = {{feeds[0].slot, 9, draft, 5}}};
    for (const StepPlan& step : {plan, drafted}) {
      const StepResult result = engine.run(step, {}).result;
      for (const SampledToken& token : result.sequences[0].tokens) ids.push_back(token.id);
    }
    return ids;
  };
  // The same tokens unless a logit's last bits decide, which they do not often: one of nine may differ.
  const auto own = run(on_card(Activations::f32)), expected = run(reference());
  size_t differing = 0;
  for (size_t i = 0; i < own.size(); i++) differing += own[i] != expected[i];
  BOOST_TEST(differing <= 1u, "seed " << seed);
}

namespace {

/// Sequences that share their first tokens, and have those in the same blocks.
struct Shared {
  static constexpr size_t prefix = 9 * kv_block_tokens;
  std::vector<Feed> feeds;

  Shared(size_t count, int64_t vocab, uint32_t seed) {
    for (size_t i = 0; i < count; i++) feeds.push_back(feeds_of({prefix + 1 + 20 * i}, vocab, seed + 1)[0]);
    const std::vector<int32_t> same = TensorMaker(seed).ids(prefix, vocab);
    uint32_t next = 0;
    for (uint32_t i = 0; i < count; i++) {
      Feed& feed = feeds[i];
      std::ranges::copy(same, feed.tokens.begin());
      feed.slot = 3 * i;
      feed.blocks.resize(kv_blocks_for(static_cast<int64_t>(feed.tokens.size()) + 20));
      for (uint32_t b = 0; b < feed.blocks.size(); b++)
        feed.blocks[b] = b < prefix / kv_block_tokens ? 95 - b : next++;
    }
  }
  StepPlan start(size_t i, const Sampling& sampling, size_t cached) const {
    StepPlan plan = test::start({feeds[i]});
    SeqStart& start = plan.starts[0];
    start.sampling = sampling, start.cached_tokens = static_cast<uint32_t>(cached);
    const auto begin = feeds[i].tokens.begin(), end = begin + static_cast<ptrdiff_t>(cached);
    if (needs_history(sampling)) start.history.assign(begin, end);
    plan.sequences = {{feeds[i].slot, start.cached_tokens, {end, feeds[i].tokens.end()}, 1}};
    return plan;
  }
};

}  // namespace

// Several in one step: together their histories are longer than a context, and those of steps in flight are
// apart.
BOOST_AUTO_TEST_CASE(sequences_behind_cached_tokens_are_those_from_the_first_token_on) {
  if (!find_library()) return;
  const ModelShape llama{.name = "llama", .vocab = 500};
  const ModelShape latent{
      .name = "latent",
      .vocab = 500,
      .pairs = model::RopePairs::interleaved,
      .latent = model::LatentAttention{.q_rank = 96, .latent = 64, .nope = 32, .rope = 16, .value = 64}};
  for (const ModelShape& shape : {llama, latent})
    for (const Activations activations : {Activations::f32, Activations::bf16}) {
      const uint32_t seed = fresh_seed();
      const std::vector<Sampling> all{
          {},
          {.presence_penalty = 0.5f, .frequency_penalty = 0.7f, .repetition_penalty = 1.3f},
          {.temperature = 1, .frequency_penalty = 1.1f, .seed = seed, .min_tokens = 4, .end_tokens = {1, 2}},
          {.repetition_penalty = 1e6f},
          {.temperature = 1, .repetition_penalty = 0.7f, .seed = seed}};
      const auto checkpoint = std::make_shared<ShapedCheckpoint>(shape, seed);
      const Shared shared(all.size(), shape.vocab, seed);
      constexpr uint32_t count = 12;
      const auto decodes = [&](size_t first, size_t end, uint32_t step) {
        StepPlan plan{.step = step};
        for (size_t i = first; i < end; i++)
          plan.sequences.push_back({shared.feeds[i].slot,
                                    static_cast<uint32_t>(shared.feeds[i].tokens.size()) + step - 1,
                                    {token_fed_back},
                                    1});
        return plan;
      };
      const model::LayerRange layers{0, shape.layers - 1};
      std::vector<std::vector<int32_t>> expected(all.size()), own(all.size());
      std::vector<float> logits;
      for (size_t i = 0; i < all.size(); i++) {
        Engine engine(on_card(activations), checkpoint, layers, limits_of(true));
        engine.keep_logits(true);
        StepPlan plan = shared.start(i, all[i], 0);
        for (uint32_t step = 1; step <= count; step++) {
          expected[i].push_back(engine.run(plan, {}).result.sequences[0].tokens[0].id);
          if (step == 1) logits.insert(logits.end(), engine.logits().begin(), engine.logits().end());
          plan = decodes(i, i + 1, step);
        }
      }
      BOOST_TEST_CONTEXT(shape.name << ", seed " << seed) {
        Engine engine(on_card(activations), checkpoint, layers, limits_of(true));
        engine.run(shared.start(0, all[0], 0), {});  // writes the blocks that all share
        StepPlan begin;
        for (size_t i = 0; i < all.size(); i++) {
          const StepPlan one = shared.start(i, all[i], Shared::prefix);
          begin.starts.push_back(one.starts[0]), begin.sequences.push_back(one.sequences[0]);
          std::ranges::copy(one.block_changes, std::back_inserter(begin.block_changes));
        }
        engine.keep_logits(true);
        engine.submit(begin, {}, {});
        uint32_t next = 1;
        for (uint32_t step = 0; step < count; step++) {
          if (next < count) engine.submit(decodes(0, all.size(), next++), {}, {});
          const auto result = engine.next_done(std::chrono::seconds(30));
          BOOST_REQUIRE(result.has_value());
          for (size_t i = 0; i < all.size(); i++) own[i].push_back(result->sequences[i].tokens[0].id);
          if (step == 0) BOOST_TEST(same_bits({engine.logits().begin(), engine.logits().end()}, logits));
        }
        for (size_t i = 0; i < all.size(); i++) BOOST_TEST(own[i] == expected[i], "way " << i);
      }
    }
}

BOOST_AUTO_TEST_CASE(a_token_is_fed_back_while_the_step_that_samples_it_is_in_flight) {
  if (!find_library()) return;
  const uint32_t seed = fresh_seed();
  const ModelShape shape{.name = "llama", .vocab = 400};
  const auto checkpoint = std::make_shared<ShapedCheckpoint>(shape, seed);
  const auto feeds = feeds_of({9, 70, 1}, shape.vocab, seed);
  const auto prompt = [&] {
    StepPlan plan = start(feeds);
    for (SeqStart& s : plan.starts) s.sampling = {.temperature = 1, .top_p = 0.8f, .seed = seed};
    for (const Feed& f : feeds) plan.sequences.push_back({f.slot, 0, f.tokens, 1});
    return plan;
  };
  constexpr uint64_t steps = 40;
  std::vector<int32_t> expected, own;
  const auto decode = [&](uint64_t step, const std::vector<int32_t>& tokens) {
    StepPlan plan{.step = step};
    for (size_t i = 0; i < feeds.size(); i++)
      plan.sequences.push_back(
          {feeds[i].slot, static_cast<uint32_t>(feeds[i].tokens.size() + step - 1), {tokens[i]}, 1});
    return plan;
  };
  {
    Engine engine(on_card(Activations::f32), checkpoint, {0, 1}, limits_of());
    std::vector<int32_t> last;
    const auto keep = [&](const StepResult& result) {
      last.clear();
      for (const SampledTokens& s : result.sequences) last.push_back(s.tokens[0].id);
      expected.insert(expected.end(), last.begin(), last.end());
    };
    keep(engine.run(prompt(), {}).result);
    for (uint64_t step = 1; step <= steps; step++) keep(engine.run(decode(step, last), {}).result);
  }
  Engine engine(on_card(Activations::f32), checkpoint, {0, 1}, limits_of());
  BOOST_REQUIRE(engine.depth() >= 2u);
  engine.submit(prompt(), {}, {});
  uint64_t step = 1;
  while (own.size() < expected.size()) {
    while (step <= steps && engine.in_flight() < engine.depth())
      engine.submit(decode(step++, std::vector(feeds.size(), token_fed_back)), {}, {});
    const auto result = engine.next_done(std::chrono::seconds(10));
    BOOST_REQUIRE(result.has_value());
    for (const SampledTokens& s : result->sequences) own.push_back(s.tokens[0].id);
  }
  BOOST_TEST(own == expected, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(a_reset_ends_what_is_in_flight_and_forgets_it) {
  if (!find_library()) return;
  const uint32_t seed = fresh_seed();
  const ModelShape shape{.name = "llama"};
  const auto checkpoint = std::make_shared<ShapedCheckpoint>(shape, seed);
  const auto feeds = feeds_of({9}, shape.vocab, seed);
  Engine engine(on_card(Activations::f32), checkpoint, {0, 1}, limits_of());
  const auto run = [&] {
    StepPlan plan = start(feeds);
    plan.sequences = {{feeds[0].slot, 0, feeds[0].tokens, 1}};
    return plan;
  };
  const int32_t expected = engine.run(run(), {}).result.sequences[0].tokens[0].id;
  engine.reset();
  engine.submit(run(), {}, {});
  engine.reset();
  BOOST_TEST(!engine.next_done(std::chrono::microseconds(0)).has_value());
  BOOST_TEST(engine.run(run(), {}).result.sequences[0].tokens[0].id == expected);
}
