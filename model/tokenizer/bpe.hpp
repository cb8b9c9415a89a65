#pragma once
// Merges the symbols of one word into tokens: byte-pair encoding by the rank of the pairs, in O(n log n).
// Used by the tokenizer alone; immutable, any thread.

#include <boost/unordered/unordered_flat_map.hpp>
#include <cstdint>
#include <span>
#include <stop_token>
#include <vector>

namespace convoy::model {

class Bpe {
 public:
  /// Neighbours that become one token. Among several the lowest rank goes first, of one rank the leftmost.
  struct Merge {
    int32_t left = 0, right = 0, result = 0, rank = 0;
  };

  /// No pair may stand twice.
  explicit Bpe(std::span<const Merge> merges);

  /// Merges until no pair is left that can be. `symbols` are ids ≥ 0 and become the tokens; none, once `stop`
  /// is requested in the midst of a long word.
  void merge(std::vector<int32_t>& symbols, const std::stop_token& stop = {}) const;

 private:
  struct Ranked {
    int32_t rank = 0, result = 0;
  };
  static constexpr int32_t no_rank = INT32_MAX;

  Ranked rank(int32_t left, int32_t right) const {
    const auto found = ranks_.find(pair(left, right));
    return found == ranks_.end() ? Ranked{no_rank, -1} : found->second;
  }
  static uint64_t pair(int32_t left, int32_t right) {
    return static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
  }
  void merge_few(std::vector<int32_t>& symbols) const;
  void merge_many(std::vector<int32_t>& symbols, const std::stop_token& stop) const;

  boost::unordered_flat_map<uint64_t, Ranked> ranks_;
};

}  // namespace convoy::model
