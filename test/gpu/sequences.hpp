#pragma once
// Sequences as a pipeline keeps them, for tests of how they may come to an engine: in one piece, behind
// cached tokens, with drafts. Over every kind of attention and of layer, and every type of cache.

#include <algorithm>
#include <cstring>

#include "gpu/kv_types.hpp"
#include "gpu/sampler.hpp"
#include "test/gpu/tiny_model.hpp"
#include "test/patience.hpp"

namespace convoy::gpu::test {

struct EngineMaker {
  BackendChoice choice;
  std::shared_ptr<TinyCheckpoint> checkpoint;
  EngineLimits limits = tiny_limits;
  int64_t vocab = checkpoint->config().vocab;

  std::unique_ptr<Engine> make(model::LayerRange range = {0, 2}) const {
    return std::make_unique<Engine>(choice.device(), checkpoint, range, limits);
  }
};

/// Latent attention gives a row the same bits in any company only when it is asked to.
inline std::vector<EngineMaker> makers() {
  std::vector<EngineMaker> all;
  for (const Tiny kind : {Tiny::llama, Tiny::qwen3_moe, Tiny::deepseek}) {
    const auto checkpoint = std::make_shared<TinyCheckpoint>(model::DType::f32, kind);
    for (const auto& [name, kv_type] : kv_types)
      for (const BackendChoice& choice : backends())
        if (choice.threads == (choice.kernels == Kernels::fast ? 3 : 1)) {
          const auto own_type = choice.kernels == Kernels::fast ? model::DType::bf16 : model::DType::f32;
          if (convoy::test::sanitized && kv_type != own_type) continue;  // one each: they take minutes
          EngineMaker& maker = all.emplace_back(EngineMaker{choice, checkpoint});
          maker.limits.kv_type = kv_type, maker.limits.deterministic = true;
        }
  }
  return all;
}

template <class F>
void for_each_engine(F body) {
  for (const EngineMaker& maker : makers())
    BOOST_TEST_CONTEXT(maker.checkpoint->config().architecture << ", " << maker.choice.name() << ", kv "
                                                               << model::info(*maker.limits.kv_type).name) {
      body(maker);
    }
}

/// Greedy; all penalties, and end tokens that come later; drawn.
inline std::vector<model::Sampling> samplings(const EngineMaker& maker) {
  model::Sampling penalised{
      .presence_penalty = 0.5f, .frequency_penalty = 0.7f, .repetition_penalty = 1.3f, .min_tokens = 5};
  for (int32_t id = 0; id < maker.vocab; id += 3) penalised.end_tokens.push_back(id);
  model::Sampling drawn = penalised;
  drawn.temperature = 1.2f, drawn.top_p = 0.9f, drawn.seed = 7, drawn.logprobs = true;
  return {{}, penalised, drawn};
}

/// A sequence's tokens, and how many of them have their keys and values in the cache.
struct Log {
  uint32_t slot = 0;
  size_t prompt_tokens = 0;
  std::vector<int32_t> tokens;
  size_t computed = 0;
};

/// What was sampled, and the logits of it, [tokens, vocab].
struct Answer {
  std::vector<int32_t> tokens;
  std::vector<float> logits;

  Answer last(size_t count) const {
    const size_t vocab = logits.size() / tokens.size(), values = count * vocab;
    return {{tokens.end() - static_cast<ptrdiff_t>(count), tokens.end()},
            {logits.end() - static_cast<ptrdiff_t>(values), logits.end()}};
  }
  void add(const SampledToken& token, std::span<const float> of_token) {
    BOOST_TEST((token.fault == RowFault::none));
    tokens.push_back(token.id);
    logits.insert(logits.end(), of_token.begin(), of_token.end());
  }
};

inline void check_same(const Answer& own, const Answer& expected) {
  BOOST_TEST(own.tokens == expected.tokens, boost::test_tools::per_element());
  BOOST_REQUIRE(own.logits.size() == expected.logits.size());
  BOOST_TEST(std::memcmp(own.logits.data(), expected.logits.data(), own.logits.size() * sizeof(float)) == 0);
}

/// Starts the sequence behind so many cached tokens, with these blocks.
inline StepPlan start_of(const Log& log, const model::Sampling& sampling, size_t cached,
                         const std::vector<uint32_t>& blocks) {
  StepPlan plan;
  SeqStart& start = plan.starts.emplace_back(
      SeqStart{log.slot, static_cast<uint32_t>(log.prompt_tokens), sampling, static_cast<uint32_t>(cached)});
  if (needs_history(sampling))
    start.history.assign(log.tokens.begin(), log.tokens.begin() + static_cast<ptrdiff_t>(cached));
  for (uint32_t i = 0; i < blocks.size(); i++) plan.block_changes.push_back({log.slot, i, blocks[i]});
  return plan;
}

/// The rows that a sequence lacks.
inline SeqStep rest_of(const Log& log) {
  return {log.slot,
          static_cast<uint32_t>(log.computed),
          {log.tokens.begin() + static_cast<ptrdiff_t>(log.computed), log.tokens.end()},
          1};
}

/// Goes on with a sequence until it has sampled so many tokens; another one decodes beside it.
inline Answer generate(Engine& engine, Log& log, uint32_t count, Log* beside = nullptr) {
  engine.keep_logits(true);
  Answer answer;
  for (uint32_t i = 0; i < count; i++) {
    StepPlan plan;
    std::vector<Log*> logs;
    if (beside) logs.push_back(beside);
    logs.push_back(&log);
    for (const Log* of : logs) plan.sequences.push_back(rest_of(*of));
    const StepResult result = engine.run(plan, {}).result;
    for (size_t s = 0; s < logs.size(); s++) {
      logs[s]->computed = logs[s]->tokens.size();
      logs[s]->tokens.push_back(result.sequences.at(s).tokens.at(0).id);
    }
    const size_t vocab = engine.logits().size() / logs.size();
    answer.add(result.sequences.back().tokens[0], engine.logits().last(vocab));
  }
  return answer;
}

}  // namespace convoy::gpu::test
