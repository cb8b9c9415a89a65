#pragma once
// What attention's kernels on tensor cores share.

#include "gpu/cuda/attention.hpp"
#include "gpu/cuda/cluster.cuh"
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

/// A row's positions in one of `parts` shares, in whole 32, so that none of these is parted by a block of the
/// cache; shares behind the last position are empty.
struct Share {
  int begin, end;
};
__device__ __forceinline__ int share_size(int seen, int parts) {
  return ((seen + parts - 1) / parts + 31) / 32 * 32;
}
__device__ __forceinline__ Share share_of(int seen, int parts, int part) {
  const int size = share_size(seen, parts);
  return {min(part * size, seen), min((part + 1) * size, seen)};
}

/// What clusters leave of a head: its values, the largest score, the sum of weights; from one to the next.
__host__ __device__ constexpr int share_pitch(int value_width) { return value_width + 4; }

__device__ __forceinline__ void add_weighted(float4& sum, const float4& v, float weight) {
  sum.x = fmaf(v.x, weight, sum.x), sum.y = fmaf(v.y, weight, sum.y);
  sum.z = fmaf(v.z, weight, sum.z), sum.w = fmaf(v.w, weight, sum.w);
}

/// Joins four values of a head: what(i, largest and sum, values) of each of `count`, of which some may be
/// empty. To be divided by `weight.y`.
template <class Weight, class Values>
__device__ __forceinline__ float4 join_four(int count, const Weight& weight_of, const Values& values_of,
                                            float2& weight) {
  weight = {-INFINITY, 0};
#pragma unroll
  for (int i = 0; i < cluster_max; i++)
    if (i < count) weight.x = fmaxf(weight.x, weight_of(i).x);
  const float base = weight.x == -INFINITY ? 0.0f : weight.x;
  float4 sum{};
#pragma unroll
  for (int i = 0; i < cluster_max; i++)
    if (i < count) {
      const float2 own = weight_of(i);
      const float scale = exp2f(own.x - base);
      weight.y = fmaf(own.y, scale, weight.y), add_weighted(sum, values_of(i), scale);
    }
  return sum;
}

/// Joins what blocks have that share a row's positions: of each head `values` [heads][Pitch], and the largest
/// score and the sum of weights. A cluster's blocks read each other's shared memory; of several clusters each
/// leaves what it has in memory, and the last one to end joins that.
template <int Width, int Pitch>
__device__ void join_blocks(const Attention& a, int row, int head, int heads, const float* values,
                            const float2* weights, bool& ends_last) {
  constexpr int fours = Width / 4;
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x),
            part = static_cast<int>(blockIdx.z);
  const int clusters = a.parts / a.cluster, number = part / a.cluster, rank = part % a.cluster;
  const auto put = [&](int own, int four, const float4& sum, float weight) {
    const int64_t at = row * a.out.pitch + (head + own) * Width + four * 4;
    const float4 v{sum.x / weight, sum.y / weight, sum.z / weight, sum.w / weight};
    if (a.out.type == Activations::bf16)
      *reinterpret_cast<uint2*>(static_cast<__nv_bfloat16*>(a.out.data) + at) = {two_bf16(v.x, v.y),
                                                                                 two_bf16(v.z, v.w)};
    else
      *reinterpret_cast<float4*>(static_cast<float*>(a.out.data) + at) = v;
  };
  const auto left_by = [&](int own, int cluster) {
    return a.partial +
           ((static_cast<int64_t>(row) * a.heads + head + own) * clusters + cluster) * share_pitch(Width);
  };
  sync_cluster();
  for (int i = rank * threads + thread; i < heads * fours; i += a.cluster * threads) {
    const int own = i / fours, four = i % fours;
    float2 weight;
    const float4 sum = join_four(
        a.cluster, [&](int r) { return load_two(weights + own, r); },
        [&](int r) { return load_four(values + own * Pitch + four * 4, r); }, weight);
    if (clusters == 1) {
      put(own, four, sum, weight.y);
    } else {
      float* const to = left_by(own, number);
      *reinterpret_cast<float4*>(to + four * 4) = sum;
      if (four == 0) *reinterpret_cast<float2*>(to + Width) = weight;
    }
  }
  if (clusters > 1) __threadfence();
  sync_cluster();  // a block's memory is read until here
  if (clusters == 1 || rank > 0) return;
  if (thread == 0) {
    const auto last = static_cast<unsigned>(clusters - 1);
    ends_last = atomicInc(&a.arrived[row * gridDim.y + blockIdx.y], last) == last;
  }
  __syncthreads();
  if (!ends_last) return;
  __threadfence();
  for (int i = thread; i < heads * fours; i += threads) {
    const int own = i / fours, four = i % fours;
    float2 weight{-INFINITY, 0};
    float4 sum{};
    for (int first = 0; first < clusters; first += cluster_max) {  // on old cards a block is a cluster
      float2 of_some;
      const float4 some = join_four(
          min(cluster_max, clusters - first),
          [&](int c) { return __ldcg(reinterpret_cast<const float2*>(left_by(own, first + c) + Width)); },
          [&](int c) { return __ldcg(reinterpret_cast<const float4*>(left_by(own, first + c) + four * 4)); },
          of_some);
      const float largest = fmaxf(weight.x, of_some.x), base = largest == -INFINITY ? 0.0f : largest;
      const float scale = exp2f(weight.x - base), of_some_scale = exp2f(of_some.x - base);
      sum = {sum.x * scale, sum.y * scale, sum.z * scale, sum.w * scale};
      add_weighted(sum, some, of_some_scale);
      weight = {largest, fmaf(of_some.y, of_some_scale, weight.y * scale)};
    }
    put(own, four, sum, weight.y);
  }
}

}  // namespace convoy::cuda
