#pragma once
// RopeTable: the rotations of all positions (RoPE, arXiv 2104.09864), and turning heads by them. Both CPU
// backends have one.

#include <cstdint>
#include <vector>

#include "model/config.hpp"

namespace convoy::gpu {

class RopeTable {
 public:
  void set(const model::Rope& rope, int64_t width, int64_t positions);
  int64_t width() const { return 2 * half_; }

  /// Rotates `width` values of each of `count` heads in place; a head begins `stride` values after the one
  /// before.
  void rotate(float* heads, int64_t count, int64_t stride, int64_t position) const;

 private:
  model::RopePairs pairs_ = model::RopePairs::half_split;
  std::vector<float> cos_, sin_;  // [positions, half]
  int64_t half_ = 0, positions_ = 0;
};

}  // namespace convoy::gpu
