#pragma once
// PromptLookup: guesses how a sequence goes on from how it went on before: where its last tokens occurred
// already, what followed there (prompt lookup decoding, Saxena 2023; the n-gram case of speculative decoding,
// arXiv 2211.17192). A step checks the guesses beside the token that it computes anyway, so they change how
// fast tokens come, never which. The scheduler owns one for each sequence that asks for it. Pure.

#include <cstddef>
#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "actors/schedule/step_cost.hpp"

namespace convoy::actors {

class PromptLookup {
 public:
  /// At most so many guesses in one step.
  explicit PromptLookup(uint32_t most) : most_(most) {}

  /// How many guesses pay in a step that has so many rows without them, none before their share that proves
  /// right is worth a longer step.
  uint32_t worth(size_t rows, const StepCost& cost);
  /// What may follow these tokens, which begin with those of the last call: at most `most`.
  std::vector<int32_t> guess(std::span<const int32_t> tokens, uint32_t most);
  /// So many of the guesses proved right until the first wrong one.
  void judge(size_t guessed, size_t right);
  /// The chance that a guess behind right ones is right, as measured.
  double chance() const { return (right_ + 1) / (judged_ + 2); }

 private:
  // Of tokens that are looked up together.
  static constexpr size_t gram = 3;
  // Guesses that the chance is measured over, and how many steps pass without any until one more is tried
  // where they do not pay.
  static constexpr double memory = 64;
  static constexpr uint32_t retry_steps = 32;

  uint32_t most_;
  std::unordered_map<uint64_t, uint32_t> follows_;  // by a hash of the gram: the position behind it
  size_t seen_ = 0;                                 // of the tokens
  double judged_ = 0, right_ = 0;
  uint32_t idle_ = 0;  // steps without guesses
};

}  // namespace convoy::actors
