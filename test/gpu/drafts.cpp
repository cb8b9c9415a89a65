// Tokens that somebody guessed come with the one that is known, and each row is sampled: those that are taken
// are bit for bit what plain decoding gives, whichever guesses were wrong.

#include <boost/test/unit_test.hpp>

#include "test/gpu/sequences.hpp"

using namespace convoy;
using namespace convoy::gpu;
using namespace convoy::gpu::test;

namespace {

constexpr uint32_t drafted_answer_tokens = 30;

struct Guesser {
  const std::vector<int32_t>& right;
  int32_t vocab;
  std::mt19937 random;
  size_t accepted = 0, rejected = 0;

  /// Up to four tokens behind those that were generated; of four one is wrong, and with it what follows.
  std::vector<int32_t> guess(size_t generated) {
    std::vector<int32_t> draft;
    for (size_t left = random() % 5, i = generated; left > 0; left--, i++) {
      const int32_t token = i < right.size() ? right[i] : 0;
      draft.push_back(random() % 4 == 0 ? (token + 1) % vocab : token);
    }
    return draft;
  }
};

/// As generate(), with guesses.
Answer generate_by_drafts(Engine& engine, Log& log, size_t count, Guesser& guesser) {
  engine.keep_logits(true);
  Answer answer;
  while (answer.tokens.size() < count) {
    const std::vector<int32_t> draft = guesser.guess(answer.tokens.size());
    SeqStep step = rest_of(log);
    step.tokens.append(draft.begin(), draft.end());
    step.sampled_rows = static_cast<uint32_t>(draft.size()) + 1;
    const StepResult result = engine.run({.sequences = {step}}, {}).result;
    const std::vector<SampledToken>& sampled = result.sequences.at(0).tokens;
    BOOST_REQUIRE(sampled.size() == draft.size() + 1);
    const size_t vocab = engine.logits().size() / sampled.size();
    log.computed = log.tokens.size();
    for (size_t row = 0; row < sampled.size() && answer.tokens.size() < count; row++) {
      answer.add(sampled[row], engine.logits().subspan(row * vocab, vocab));
      log.tokens.push_back(sampled[row].id);
      if (row == draft.size()) break;
      if (draft[row] != sampled[row].id) {
        guesser.rejected++;
        break;
      }
      guesser.accepted++, log.computed++;
    }
  }
  return answer;
}

}  // namespace

BOOST_AUTO_TEST_CASE(drafts_give_the_tokens_and_logits_of_plain_decoding) {
  const uint32_t seed = std::random_device{}();
  for_each_engine([&](const EngineMaker& maker) {
    const std::vector<int32_t> prompt = TensorMaker(71).ids(70, maker.vocab);
    for (const model::Sampling& sampling : samplings(maker)) {
      const auto engine = maker.make();
      Log plain{.slot = 0, .prompt_tokens = prompt.size(), .tokens = prompt};
      engine->run(start_of(plain, sampling, 0, {7, 2}), {});
      const Answer expected = generate(*engine, plain, drafted_answer_tokens);
      // From the first token on, and behind the other one's first block.
      for (const size_t cached : {size_t{0}, size_t{kv_block_tokens}})
        BOOST_TEST_CONTEXT(cached << " cached tokens, seed " << seed) {
          Guesser guesser{expected.tokens, static_cast<int32_t>(maker.vocab), std::mt19937(seed)};
          Log log{.slot = 1, .prompt_tokens = prompt.size(), .tokens = prompt, .computed = cached};
          engine->run(start_of(log, sampling, cached, {cached > 0 ? 7u : 8u, 9}), {});
          check_same(generate_by_drafts(*engine, log, drafted_answer_tokens, guesser), expected);
          BOOST_TEST(guesser.accepted > 0u);
          BOOST_TEST(guesser.rejected > 0u);
        }
    }
  });
}
