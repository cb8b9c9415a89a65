#include "model/tokenizer/token_bound.hpp"

#include <algorithm>

namespace convoy::model {

namespace {

constexpr size_t ascii = 128;

bool is_blank(size_t byte) { return byte == ' ' || (byte >= '\t' && byte <= '\r'); }

}  // namespace

TokenBound::TokenBound(std::span<const std::string_view> tokens, const Rules& rules)
    : normalises_(rules.shrinks_by_max > 1) {
  std::array<size_t, 256> longest = {};  // token that has the byte
  std::array<bool, 256> alone = {};      // has a token of its own
  for (const std::string_view token : tokens) {
    for (const char c : token) {
      size_t& known = longest[static_cast<uint8_t>(c)];
      known = std::max(known, token.size());
    }
    if (token.size() == 1) alone[static_cast<uint8_t>(token[0])] = true;
  }
  const auto share_of = [](size_t bytes) { return (uint64_t{1} << fraction_bits) / bytes; };
  if (std::ranges::count(alone, true) == 256)
    normalised_share_ = share_of(*std::ranges::max_element(longest) * rules.shrinks_by_max);
  for (size_t b = 0; b < shares_.size(); ++b) {
    if (rules.takes_blanks && (is_blank(b) || b >= ascii)) continue;  // there are blanks beyond ASCII
    if (normalises_ && b >= ascii)
      shares_[b] = normalised_share_;
    else if (alone[b])
      shares_[b] = share_of(longest[b]);
  }
}

size_t TokenBound::tokens_min(std::span<const Segment> text) const {
  uint64_t sum = 0;
  for (const Segment& segment : text) {
    for (size_t i = 0; i < segment.text.size(); ++i) {
      const uint64_t share = shares_[static_cast<uint8_t>(segment.text[i])];
      // A mark behind a letter may become one character with it.
      const bool plain =
          !normalises_ || (i + 1 < segment.text.size() && static_cast<uint8_t>(segment.text[i + 1]) < ascii);
      sum += plain ? share : std::min(share, normalised_share_);
    }
  }
  return static_cast<size_t>((sum + (uint64_t{1} << fraction_bits) - 1) >> fraction_bits);
}

}  // namespace convoy::model
