#pragma once
// Merges the bytes of one word into tokens: byte-pair encoding by the rank of the pairs, in O(n log n). Used
// by the tokenizer alone; immutable, any thread.

#include <array>
#include <boost/unordered/unordered_flat_map.hpp>
#include <cstdint>
#include <optional>
#include <span>
#include <stop_token>
#include <string_view>
#include <vector>

namespace convoy::model {

class Bpe {
 public:
  struct Merge {
    int32_t left = 0, right = 0, result = 0;
  };

  /// byte_ids: the token of each single byte, -1 where the vocabulary lacks it; such bytes are dropped, as
  /// the reference does. merges: by rank, best first; no pair stands twice.
  Bpe(const std::array<int32_t, 256>& byte_ids, std::span<const Merge> merges);

  /// Appends the tokens of `word`; nothing once `stop` is requested in the midst of a long one.
  void encode(std::string_view word, std::vector<int32_t>& ids, const std::stop_token& stop = {}) const;

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
  void encode_short(std::string_view word, std::vector<int32_t>& ids) const;
  void encode_long(std::string_view word, std::vector<int32_t>& ids, const std::stop_token& stop) const;

  std::array<int32_t, 256> byte_ids_;
  boost::unordered_flat_map<uint64_t, Ranked> ranks_;
};

}  // namespace convoy::model
