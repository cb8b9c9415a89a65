#pragma once
// What attention's kernels on tensor cores share.

#include "gpu/cuda/attention.hpp"
#include "gpu/cuda/elementwise.cuh"
#include "gpu/cuda/mma.cuh"

namespace convoy::cuda {

inline constexpr float log2_e = 1.4426950408889634f;

/// The maximum, and the sum, over the four threads that share rows of a product.
__device__ __forceinline__ float quad_max(float value) {
  value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 1));
  return fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 2));
}
__device__ __forceinline__ float quad_sum(float value) {
  value += __shfl_xor_sync(0xffffffffu, value, 1);
  return value + __shfl_xor_sync(0xffffffffu, value, 2);
}

/// Two rows of a softmax in the making, in base 2: their largest scores, and the sums of weights of the
/// positions that this thread had.
struct TwoRows {
  float largest[2] = {-INFINITY, -INFINITY}, sums[2] = {};

  /// Takes in scores [tiles][row, row, row + 8, row + 8], which become weights; what earlier sums are to be
  /// multiplied by. Scores of positions that are not there are −∞.
  template <int Tiles>
  __device__ __forceinline__ void take(float (&scores)[Tiles][4], float (&kept)[2]) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
      float most = largest[r];
#pragma unroll
      for (int i = 0; i < Tiles; i++) most = fmaxf(most, fmaxf(scores[i][2 * r], scores[i][2 * r + 1]));
      most = quad_max(most);
      const float base = most == -INFINITY ? 0.0f : most;  // a row without positions yet
      kept[r] = exp2f(largest[r] - base);
      largest[r] = most, sums[r] *= kept[r];
#pragma unroll
      for (int i = 0; i < Tiles; i++)
#pragma unroll
        for (int c = 2 * r; c < 2 * r + 2; c++) {
          scores[i][c] = exp2f(scores[i][c] - base);
          sums[r] += scores[i][c];
        }
    }
  }
};

/// A share's values, the largest score, the sum of weights; from one to the next.
__host__ __device__ constexpr int share_pitch(int value_width) { return value_width + 4; }

/// A row's positions in one of `parts` shares, in whole sixteens; shares behind the last position are empty.
struct Share {
  int begin, end;
};
__device__ __forceinline__ int share_size(int seen, int parts) {
  return ((seen + parts - 1) / parts + 15) / 16 * 16;
}
__device__ __forceinline__ Share share_of(int seen, int parts, int part) {
  const int size = share_size(seen, parts);
  return {min(part * size, seen), min((part + 1) * size, seen)};
}

}  // namespace convoy::cuda
