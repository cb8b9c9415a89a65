// A row's result depends on that row alone: logits are equal bit for bit, however a sequence comes.

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cstring>
#include <numeric>
#include <set>

#include "test/gpu/tiny_model.hpp"
#include "test/patience.hpp"

using namespace convoy;
using namespace convoy::gpu;
using namespace convoy::gpu::test;
using model::DType;

namespace {

constexpr size_t vocab = 160;

struct Feed {
  std::vector<int32_t> tokens;
  std::vector<uint32_t> blocks;
  uint32_t slot = 0;
};

Feed feed_of(size_t tokens, uint32_t seed, std::vector<uint32_t> blocks, uint32_t slot = 0) {
  return {TensorMaker(seed).ids(tokens, vocab), std::move(blocks), slot};
}

StepPlan start(std::span<const Feed> feeds) {
  StepPlan plan;
  for (const Feed& f : feeds) {
    plan.starts.push_back({f.slot, static_cast<uint32_t>(f.tokens.size()), {}});
    for (uint32_t i = 0; i < f.blocks.size(); i++) plan.block_changes.push_back({f.slot, i, f.blocks[i]});
  }
  return plan;
}

/// Feeds all sequences side by side, at most `chunk` tokens of each a step; the logits of the sequence at
/// `wanted`.
std::vector<float> run(Engine& engine, std::span<const Feed> feeds, size_t chunk, size_t wanted) {
  engine.keep_logits(true);
  std::vector<float> logits;
  StepPlan plan = start(feeds);
  size_t longest = 0;
  for (const Feed& f : feeds) longest = std::max(longest, f.tokens.size());
  for (size_t at = 0; at < longest; at += chunk) {
    size_t row = 0;
    for (size_t i = 0; i < feeds.size(); i++) {
      const auto& tokens = feeds[i].tokens;
      if (at >= tokens.size()) continue;
      const size_t count = std::min(chunk, tokens.size() - at);
      const auto begin = tokens.begin() + static_cast<ptrdiff_t>(at);
      if (i < wanted) row += count;
      plan.sequences.push_back({feeds[i].slot,
                                static_cast<uint32_t>(at),
                                {begin, begin + static_cast<ptrdiff_t>(count)},
                                static_cast<uint32_t>(count)});
    }
    engine.run(plan, {});
    if (at < feeds[wanted].tokens.size()) {
      const size_t count = std::min(chunk, feeds[wanted].tokens.size() - at);
      const auto rows = engine.logits().subspan(row * vocab, count * vocab);
      logits.insert(logits.end(), rows.begin(), rows.end());
    }
    plan = {.step = plan.step + 1};
  }
  return logits;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

/// Every backend with every kind of weight and of layer.
template <class F>
void for_each_model(F body) {
  for (const auto& [type, kind] :
       {std::pair{DType::f32, Tiny::llama}, std::pair{DType::bf16, Tiny::qwen2},
        std::pair{DType::f8_e4m3, Tiny::llama}, std::pair{DType::q8_0, Tiny::llama},
        std::pair{DType::q4_0, Tiny::llama}, std::pair{DType::q4_1, Tiny::llama},
        std::pair{DType::q4_k, Tiny::llama}, std::pair{DType::q6_k, Tiny::llama},
        std::pair{DType::q8_0, Tiny::qwen3}, std::pair{DType::f32, Tiny::qwen3_moe},
        std::pair{DType::f32, Tiny::deepseek}, std::pair{DType::q8_0, Tiny::deepseek}})
    for (Kernels kernels : {Kernels::reference, Kernels::fast}) {
      const auto checkpoint = std::make_shared<TinyCheckpoint>(type, kind);
      std::vector<BackendChoice> choices;
      for (const BackendChoice& choice : backends())
        if (choice.kernels == kernels) choices.push_back(choice);
      if (choices.empty()) continue;
      BOOST_TEST_CONTEXT(choices.front().name()
                         << ", " << checkpoint->config().architecture << ", " << model::info(type).name) {
        body(checkpoint, choices);
      }
    }
}

/// Latent attention keeps this promise only when it is asked to.
EngineLimits limits() {
  EngineLimits limits = tiny_limits;
  limits.deterministic = true;
  return limits;
}

std::unique_ptr<Engine> whole(const std::shared_ptr<TinyCheckpoint>& checkpoint,
                              const BackendChoice& choice) {
  return std::make_unique<Engine>(choice.device(), checkpoint, model::LayerRange{0, 2}, limits());
}

/// Every number of sequences on one thread of the fast kernels; elsewhere the tiles' ends.
std::vector<uint32_t> batch_sizes(const BackendChoice& choice) {
  if (convoy::test::sanitized || choice.kernels == Kernels::reference || choice.threads > 1)
    return {1, 2, 5, 8, 9, 33, 70};
  std::vector<uint32_t> all(70);
  std::iota(all.begin(), all.end(), 1u);
  return all;
}

/// Sanitizers make single tokens take minutes.
const std::vector<size_t> chunk_sizes =
    convoy::test::sanitized ? std::vector<size_t>{7, 512} : std::vector<size_t>{1, 7, 64, 512};

const Feed subject = feed_of(150, 21, {0, 1, 2});

}  // namespace

BOOST_AUTO_TEST_CASE(logits_do_not_depend_on_chunks_or_threads) {
  for_each_model([](const auto& checkpoint, const std::vector<BackendChoice>& choices) {
    const auto expected = run(*whole(checkpoint, choices.front()), {&subject, 1}, 512, 0);
    BOOST_TEST(expected.size() == 150 * vocab);
    BOOST_TEST(std::set<float>(expected.begin(), expected.end()).size() > 1000u);
    for (const BackendChoice& choice : choices)
      for (size_t chunk : chunk_sizes) BOOST_TEST_CONTEXT(choice.name() << ", chunks of " << chunk) {
          const auto engine = whole(checkpoint, choice);
          BOOST_TEST(same_bits(run(*engine, {&subject, 1}, chunk, 0), expected));
        }
  });
}

BOOST_AUTO_TEST_CASE(logits_do_not_depend_on_neighbours_or_blocks) {
  for_each_model([](const auto& checkpoint, const std::vector<BackendChoice>& choices) {
    const auto expected = run(*whole(checkpoint, choices.front()), {&subject, 1}, 512, 0);
    const std::vector<Feed> feeds = {feed_of(33, 22, {9}, 3),
                                     {subject.tokens, {23, 4, 17}, 1},
                                     feed_of(70, 23, {8, 0}, 0),
                                     feed_of(1, 24, {5}, 2)};
    for (const BackendChoice& choice : choices)
      for (size_t chunk : chunk_sizes) BOOST_TEST_CONTEXT(choice.name() << ", chunks of " << chunk) {
          const auto engine = whole(checkpoint, choice);
          BOOST_TEST(same_bits(run(*engine, feeds, chunk, 1), expected));
        }
  });
}

BOOST_AUTO_TEST_CASE(logits_do_not_depend_on_how_many_sequences_share_a_step) {
  constexpr uint32_t sequences_max = 70, tokens = 3;
  for_each_model([](const auto& checkpoint, const std::vector<BackendChoice>& choices) {
    EngineLimits many = limits();
    many.kv_blocks = many.slots = sequences_max;
    std::vector<Feed> feeds;
    for (uint32_t i = 0; i < sequences_max; i++) feeds.push_back(feed_of(tokens, 100 + i, {i}, i));
    const auto engine_of = [&](const BackendChoice& choice) {
      return std::make_unique<Engine>(choice.device(), checkpoint, model::LayerRange{0, 2}, many);
    };
    std::vector<std::vector<float>> alone;  // of each sequence, the last token's
    const auto single = engine_of(choices.front());
    for (const Feed& feed : feeds) {
      const auto logits = run(*single, {&feed, 1}, tokens, 0);
      alone.emplace_back(logits.end() - vocab, logits.end());
    }
    for (const BackendChoice& choice : choices) {
      const auto engine = engine_of(choice);
      run(*engine, feeds, 1, 0);
      for (const uint32_t sequences : batch_sizes(choice)) {
        StepPlan last;  // brings the last token again
        for (uint32_t i = 0; i < sequences; i++)
          last.sequences.push_back({i, tokens - 1, {feeds[i].tokens.back()}, 1});
        engine->run(last, {});
        uint32_t same = 0;
        for (uint32_t i = 0; i < sequences; i++) {
          const auto logits = engine->logits().subspan(i * vocab, vocab);
          same += same_bits({logits.begin(), logits.end()}, alone[i]);
        }
        BOOST_TEST(same == sequences, choice.name() << ", " << sequences << " sequences");
      }
    }
  });
}

BOOST_AUTO_TEST_CASE(a_rewritten_tail_gives_the_same_logits) {
  for_each_model([](const auto& checkpoint, const std::vector<BackendChoice>& choices) {
    const auto engine = whole(checkpoint, choices.front());
    const auto expected = run(*engine, {&subject, 1}, 512, 0);
    // A wrong draft over the tail, then the right tokens again.
    engine->run({.sequences = {{0, 100, TensorMaker(25).ids(50, vocab), 50}}}, {});
    engine->run({.sequences = {{0, 100, {subject.tokens.begin() + 100, subject.tokens.end()}, 50}}}, {});
    const auto logits = engine->logits();
    BOOST_TEST(same_bits({logits.begin(), logits.end()}, {expected.begin() + 100 * vocab, expected.end()}));
  });
}

BOOST_AUTO_TEST_CASE(stages_give_the_logits_of_the_whole) {
  for_each_model([](const auto& checkpoint, const std::vector<BackendChoice>& choices) {
    const auto expected = run(*whole(checkpoint, choices.front()), {&subject, 1}, 512, 0);
    for (const auto& [first_end, second_end] : {std::pair{0, 1}, std::pair{0, 2}, std::pair{1, 2}}) {
      StepPlan plan = start({&subject, 1});
      plan.sequences = {{0, 0, subject.tokens, 150}};
      std::vector<float> hidden;
      std::vector<std::pair<int64_t, int64_t>> ranges = {{0, first_end}, {first_end + 1, second_end}};
      if (second_end < 2) ranges.push_back({second_end + 1, 2});
      for (const auto& [first, last] : ranges) {
        Engine stage(choices.front().device(), checkpoint, {first, last}, limits());
        BOOST_TEST(stage.first() == (first == 0));
        BOOST_TEST(stage.last() == (last == 2));
        stage.keep_logits(true);
        const StepOutput out = stage.run(plan, hidden);
        hidden.assign(out.hidden.begin(), out.hidden.end());
        if (stage.last())
          BOOST_TEST(same_bits({stage.logits().begin(), stage.logits().end()}, expected));
        else
          BOOST_TEST(hidden.size() == 150 * static_cast<size_t>(checkpoint->config().hidden));
      }
    }
  });
}
