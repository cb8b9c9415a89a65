#pragma once
// What attention's kernels on tensor cores share.

#include "gpu/cuda/attention.hpp"
#include "gpu/cuda/cluster.cuh"
#include "gpu/cuda/elementwise.cuh"
#include "gpu/cuda/mma.cuh"

namespace convoy::cuda {

inline constexpr float log2_e = 1.4426950408889634f;

/// How many clusters of 1, 2, 4 … blocks of a kernel the current card takes at once; none where it knows no
/// clusters.
template <class... Parameters>
ClusterRoom cluster_room(void (*kernel)(Parameters...), int threads, size_t shared) {
  ClusterRoom room{};
  if (!knows_dependent_launches()) return room;  // both came with 9.0
  for (size_t i = 0; i < room.size(); i++) room[i] = active_clusters(kernel, threads, shared, 1 << i);
  return room;
}

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

/// Joins four values of a head of which Count shares have a part, with the largest score and the sum of
/// weights of each, some of them empty. To be divided by `whole.y`.
template <int Count, class Weight, class Values>
__device__ __forceinline__ float4 join_values(const Weight& weight_of, const Values& values_of,
                                              float2& whole) {
  float2 weights[Count];
#pragma unroll
  for (int i = 0; i < Count; i++) weights[i] = weight_of(i);
  whole = {-INFINITY, 0};
#pragma unroll
  for (int i = 0; i < Count; i++) whole.x = fmaxf(whole.x, weights[i].x);
  const float base = whole.x == -INFINITY ? 0.0f : whole.x;
  float4 sum{};
  constexpr int at_once = Count < 8 ? Count : 8;
#pragma unroll
  for (int first = 0; first < Count; first += at_once) {
    float4 values[at_once];
#pragma unroll
    for (int i = 0; i < at_once; i++) values[i] = values_of(first + i);
#pragma unroll
    for (int i = 0; i < at_once; i++) {
      const float2& weight = weights[first + i];
      const float scale = exp2f(weight.x - base);
      whole.y = fmaf(weight.y, scale, whole.y), add_weighted(sum, values[i], scale);
    }
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
  const auto join_cluster = [&]<int Count>() {
    for (int i = rank * threads + thread; i < heads * fours; i += Count * threads) {
      const int own = i / fours, four = i % fours;
      float2 weight;
      const float4 sum =
          join_values<Count>([&](int r) { return load_two(weights + own, r); },
                             [&](int r) { return load_four(values + own * Pitch + four * 4, r); }, weight);
      if (clusters == 1) {
        put(own, four, sum, weight.y);
      } else {
        float* const to = left_by(own, number);
        *reinterpret_cast<float4*>(to + four * 4) = sum;
        if (four == 0) *reinterpret_cast<float2*>(to + Width) = weight;
      }
    }
  };
  static_assert(cluster_max == 16);
  switch (a.cluster) {  // a power of two
    case 16:
      join_cluster.template operator()<16>();
      break;
    case 8:
      join_cluster.template operator()<8>();
      break;
    case 4:
      join_cluster.template operator()<4>();
      break;
    case 2:
      join_cluster.template operator()<2>();
      break;
    default:
      join_cluster.template operator()<1>();
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
    float2 whole{-INFINITY, 0};
    float4 sum{};
#pragma unroll 4
    for (int c = 0; c < clusters; c++) {
      const float* const from = left_by(own, c);
      const float2 weight = __ldcg(reinterpret_cast<const float2*>(from + Width));
      const float4 values = __ldcg(reinterpret_cast<const float4*>(from + four * 4));
      const float largest = fmaxf(whole.x, weight.x), base = largest == -INFINITY ? 0.0f : largest;
      const float kept = exp2f(whole.x - base), scale = exp2f(weight.x - base);
      sum = {sum.x * kept, sum.y * kept, sum.z * kept, sum.w * kept};
      add_weighted(sum, values, scale);
      whole = {largest, fmaf(weight.y, scale, whole.y * kept)};
    }
    put(own, four, sum, whole.y);
  }
}

}  // namespace convoy::cuda
