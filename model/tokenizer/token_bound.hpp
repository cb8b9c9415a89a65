#pragma once
// TokenBound: the fewest tokens that a text can become, by a look at its bytes: what cannot fit is refused
// before any of it is encoded. A token's n bytes are an n-th of it each, so a byte adds at least one part in
// the length of the longest token that has it. Part of a tokenizer; immutable, any thread.

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

#include "model/tokenizer/tokenizer.hpp"

namespace convoy::model {

class TokenBound {
 public:
  struct Rules {
    size_t shrinks_by_max =
        1;  // when characters beyond ASCII, and what precedes them, are normalised; 1: never
    bool takes_blanks = false;  // an added token takes those around it along
  };
  /// tokens: what each stands for. A byte that has no token of its own may be left out of the ids, and counts
  /// nothing.
  TokenBound(std::span<const std::string_view> tokens, const Rules& rules);
  /// Of a tokenizer that may leave out any text.
  TokenBound() = default;

  size_t tokens_min(std::span<const Segment> text) const;

 private:
  static constexpr int fraction_bits = 32;

  std::array<uint64_t, 256> shares_ = {};  // of a token, that each byte adds at least
  bool normalises_ = false;
  uint64_t normalised_share_ = 0;  // of a byte that normalising may change
};

}  // namespace convoy::model
