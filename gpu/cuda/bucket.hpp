#pragma once
// Which launches a step gets: those of its bucket, so that they can be captured once and replayed.

#include <algorithm>
#include <bit>
#include <compare>
#include <cstdint>

namespace convoy::cuda {

/// How many rows a sequence brings at most.
enum class Runs : uint8_t { one, few, many };
/// Of more rows of a sequence a block of attention takes several.
inline constexpr int64_t few_rows_max = 8;
constexpr Runs runs_of(int64_t longest_run) {
  return longest_run <= 1 ? Runs::one : longest_run <= few_rows_max ? Runs::few : Runs::many;
}

/// What steps of a kind have at most.
struct Bucket {
  int rows = 0, sampled = 0;
  int parts = 1;  // of attention: 1: a block walks over all of a row's positions
  Runs runs = Runs::few;
  auto operator<=>(const Bucket&) const = default;
};

/// What decides about a step's bucket.
struct StepSize {
  int64_t rows = 0, sampled = 0;
  int64_t longest = 0, longest_run = 0;  // positions, and rows, of a sequence
};

/// A power of two, or less where that is the limit. count ≥ 1.
constexpr int at_least(int64_t count, int64_t limit) {
  return static_cast<int>(std::min(static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(count))), limit));
}

/// The rows of a bucket: powers of two, and above 64 quarters of these too: of many rows each costs. count
/// ≥ 1.
constexpr int bucket_rows(int64_t count, int64_t limit) {
  constexpr int64_t coarse_max = 64, steps = 4;
  const auto power = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(count)));
  const int64_t step = power <= coarse_max ? power : power / 2 / steps;
  return static_cast<int>(std::min((count + step - 1) / step * step, limit));
}

}  // namespace convoy::cuda
