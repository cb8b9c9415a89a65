#include "actors/schedule/drafts.hpp"

#include <algorithm>

namespace convoy::actors {

namespace {

uint64_t hash_of(std::span<const int32_t> gram) {
  uint64_t hash = 0xcbf29ce484222325;  // FNV-1a over tokens; what is found is compared
  for (const int32_t token : gram) hash = (hash ^ static_cast<uint32_t>(token)) * 0x100000001b3;
  return hash;
}

}  // namespace

uint32_t PromptLookup::worth(size_t rows, const StepCost& cost) {
  if (!cost.measured()) return most_;
  // k guesses bring 1 + p + ... + p^k tokens of this sequence; a step has one of each other row's.
  const double p = chance(), others = static_cast<double>(rows) - 1;
  double tokens = others + 1, best_rate = tokens / cost.of(rows), power = 1;
  uint32_t best = 0;
  for (uint32_t k = 1; k <= most_; ++k) {
    power *= p;
    tokens += power;
    if (const double rate = tokens / cost.of(rows + k); rate > best_rate) best = k, best_rate = rate;
  }
  if (best > 0) {
    idle_ = 0;
  } else if (++idle_ >= retry_steps) {
    idle_ = 0;
    best = 1;
  }
  return best;
}

std::vector<int32_t> PromptLookup::guess(std::span<const int32_t> tokens, uint32_t most) {
  // A gram is remembered once something follows it.
  for (; seen_ < tokens.size(); ++seen_)
    if (seen_ >= gram) follows_[hash_of(tokens.subspan(seen_ - gram, gram))] = static_cast<uint32_t>(seen_);
  if (tokens.size() < gram || most == 0) return {};
  const auto last = tokens.last(gram);
  const auto found = follows_.find(hash_of(last));
  if (found == follows_.end()) return {};
  const size_t at = found->second;
  if (!std::ranges::equal(tokens.subspan(at - gram, gram), last)) return {};
  // What followed there may end with the tokens: then it repeats, and goes on with what is guessed.
  std::vector<int32_t> guesses;
  guesses.reserve(most);
  for (size_t i = 0; i < most; ++i)
    guesses.push_back(at + i < tokens.size() ? tokens[at + i] : guesses[at + i - tokens.size()]);
  return guesses;
}

void PromptLookup::judge(size_t guessed, size_t right) {
  // The first wrong guess says something, those behind it do not.
  const double judged = static_cast<double>(std::min(guessed, right + 1));
  const double keep = memory / (memory + judged);
  judged_ = keep * judged_ + judged;
  right_ = keep * right_ + static_cast<double>(right);
}

}  // namespace convoy::actors
