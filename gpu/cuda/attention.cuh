#pragma once
// One block attends with up to G heads that share keys, four warps taking turns at its positions.
// Bytes: each key and value once for every G heads; operations: 4 · heads · width a position.

#include "gpu/cuda/attention.hpp"
#include "gpu/cuda/elementwise.cuh"

namespace convoy::cuda {

inline constexpr int attend_threads = 128, attend_warps = attend_threads / 32;

/// A value of a cache in f8_e4m3.
struct Float8 {
  __nv_fp8_storage_t bits;
};

template <class T>
__device__ __forceinline__ float cached(const T* from) {
  if constexpr (sizeof(T) == 4)
    return *from;
  else if constexpr (std::is_same_v<T, Float8>)
    return __half2float(__half(__nv_cvt_fp8_to_halfraw(from->bits, __NV_E4M3)));  // which holds it exactly
  else if constexpr (std::is_same_v<T, __half>)
    return __half2float(*from);
  else
    return __bfloat162float(*from);
}

/// A softmax in the making: largest score, sum of weights (both of base 2), and the weighted sum's scale.
struct Merge {
  float largest, sum, own, other;
};
/// Of two parts, either of which may be empty (−∞), but not both. The one spelling, so that parts join to the
/// same bits wherever they are joined.
__device__ __forceinline__ Merge merge(float largest, float sum, float other_largest, float other_sum) {
  const float m = fmaxf(largest, other_largest);
  const float own = exp2f(largest - m), other = exp2f(other_largest - m);
  return {m, __fmaf_rn(sum, own, __fmul_rn(other_sum, other)), own, other};
}
__device__ __forceinline__ float merged(const Merge& m, float own, float other) {
  return __fmaf_rn(own, m.own, __fmul_rn(other, m.other));
}

/// EK, EV: values of a key, of a value, that a lane holds; U: positions that a warp takes at once.
template <class Kv, int EK, int EV, int G, int U, bool Latent>
__global__ void __launch_bounds__(attend_threads) attend_part(const Attention a, const RowTables tables) {
  static_assert(!Latent || EK > EV);
  __shared__ float warp_largest[attend_warps][G], warp_sums[attend_warps][G];
  __shared__ float warp_values[attend_warps][G][EV * 32];
  follow_previous();
  const int row = static_cast<int>(blockIdx.x);
  if (!has_row(a.rows, row)) return;
  const int group = a.heads / a.kv_heads, chunks = (group + G - 1) / G;
  const int kv_head = static_cast<int>(blockIdx.y) / chunks, chunk = static_cast<int>(blockIdx.y) % chunks;
  const int head = kv_head * group + chunk * G, heads = min(G, group - chunk * G);
  const int seen = tables.position[row] + 1;
  const bool alone = a.parts == 1;
  const int first_part = alone ? 0 : static_cast<int>(blockIdx.z);
  if (first_part * a.part_tokens >= seen) return;
  const int last_part = alone ? (seen - 1) / a.part_tokens : first_part;

  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  // Which value of a key a lane's e-th is, or −1. A latent's entry is cut behind its value.
  const auto key_index = [&](int e) {
    if (!Latent || e < EV) return lane + 32 * e < (Latent ? a.value_width : a.key_width) ? lane + 32 * e : -1;
    const int i = a.value_width + lane + 32 * (e - EV);
    return i < a.key_width ? i : -1;
  };
  constexpr float log2_e = 1.4426950408889634f;
  float q[G][EK];
#pragma unroll
  for (int g = 0; g < G; g++)
#pragma unroll
    for (int e = 0; e < EK; e++) {
      const int i = key_index(e);
      q[g][e] =
          i < 0 ? 0.0f
                : a.q[row * a.q_pitch + (head + min(g, heads - 1)) * a.key_width + i] * (a.scale * log2_e);
    }

  const uint32_t* const table = tables.table_of(row);
  const Kv* const keys = static_cast<const Kv*>(a.keys.data) + (Latent ? 0 : kv_head * a.key_width);
  const Kv* const values = Latent ? nullptr : static_cast<const Kv*>(a.values.data) + kv_head * a.value_width;
  constexpr int own_values =
      (EV * 32 + attend_threads - 1) / attend_threads;  // of a thread, once warps joined
  float all_largest[G], all_sums[G], all_values[G][own_values] = {};
#pragma unroll
  for (int g = 0; g < G; g++) all_largest[g] = -INFINITY, all_sums[g] = 0;

  for (int part = first_part; part <= last_part; part++) {
    const int end = min((part + 1) * a.part_tokens, seen);
    float largest[G], sums[G], sum[G][EV] = {};
#pragma unroll
    for (int g = 0; g < G; g++) largest[g] = -INFINITY, sums[g] = 0;
    for (int first = part * a.part_tokens + warp * U; first < end; first += attend_warps * U) {
      float k[U][EK], v[U][Latent ? 1 : EV];
#pragma unroll
      for (int u = 0; u < U; u++) {
        const int position = min(first + u, end - 1);
        const Kv* const key = keys + cache_index(table, position, a.keys.width);
#pragma unroll
        for (int e = 0; e < EK; e++) {
          const int i = key_index(e);
          k[u][e] = i < 0 ? 0.0f : cached(key + i);
        }
        if constexpr (!Latent) {
          const Kv* const value = values + cache_index(table, position, a.values.width);
#pragma unroll
          for (int e = 0; e < EV; e++)
            v[u][e] = lane + 32 * e < a.value_width ? cached(value + lane + 32 * e) : 0.0f;
        }
      }
#pragma unroll
      for (int g = 0; g < G; g++) {
        float scores[U], most = largest[g];
#pragma unroll
        for (int u = 0; u < U; u++) {
          float score = 0;
#pragma unroll
          for (int e = 0; e < EK; e++) score = fmaf(q[g][e], k[u][e], score);
          score = warp_sum(score);
          scores[u] = first + u < end ? score : -INFINITY;
          most = fmaxf(most, scores[u]);
        }
        const float kept = exp2f(largest[g] - most);
        largest[g] = most, sums[g] *= kept;
#pragma unroll
        for (int e = 0; e < EV; e++) sum[g][e] *= kept;
#pragma unroll
        for (int u = 0; u < U; u++) {
          const float weight = exp2f(scores[u] - most);
          sums[g] += weight;
#pragma unroll
          for (int e = 0; e < EV; e++)
            sum[g][e] = fmaf(weight, Latent ? k[u][e] : v[u][Latent ? 0 : e], sum[g][e]);
        }
      }
    }
#pragma unroll
    for (int g = 0; g < G; g++) {
      if (lane == 0) warp_largest[warp][g] = largest[g], warp_sums[warp][g] = sums[g];
#pragma unroll
      for (int e = 0; e < EV; e++) warp_values[warp][g][lane + 32 * e] = sum[g][e];
    }
    __syncthreads();
    // The first warp has at least one position. Each joins to what the ones before it have.
#pragma unroll
    for (int g = 0; g < G; g++) {
      float part_largest = warp_largest[0][g], part_sum = warp_sums[0][g], part_values[own_values];
#pragma unroll
      for (int j = 0; j < own_values; j++) {
        const int i = thread + j * attend_threads;
        part_values[j] = i < EV * 32 ? warp_values[0][g][i] : 0.0f;
      }
      for (int w = 1; w < attend_warps; w++) {
        const Merge m = merge(part_largest, part_sum, warp_largest[w][g], warp_sums[w][g]);
        part_largest = m.largest, part_sum = m.sum;
#pragma unroll
        for (int j = 0; j < own_values; j++) {
          const int i = thread + j * attend_threads;
          if (i < EV * 32) part_values[j] = merged(m, part_values[j], warp_values[w][g][i]);
        }
      }
      if (alone) {
        const Merge m = merge(all_largest[g], all_sums[g], part_largest, part_sum);
        all_largest[g] = m.largest, all_sums[g] = m.sum;
#pragma unroll
        for (int j = 0; j < own_values; j++) all_values[g][j] = merged(m, all_values[g][j], part_values[j]);
      } else if (g < heads) {
        float* const to = a.partial + ((static_cast<int64_t>(row) * a.heads + head + g) * a.parts + part) *
                                          (a.value_width + 2);
        if (thread == 0) to[0] = part_largest, to[1] = part_sum;
#pragma unroll
        for (int j = 0; j < own_values; j++) {
          const int i = thread + j * attend_threads;
          if (i < a.value_width) to[2 + i] = part_values[j];
        }
      }
    }
    __syncthreads();
  }
  if (!alone) return;
#pragma unroll
  for (int g = 0; g < G; g++)
#pragma unroll
    for (int j = 0; j < own_values; j++) {
      const int i = thread + j * attend_threads;
      if (g >= heads || i >= a.value_width) continue;
      const int64_t at = row * a.out.pitch + (head + g) * a.value_width + i;
      const float value = all_values[g][j] / all_sums[g];
      if (a.out.type == Activations::bf16)
        static_cast<__nv_bfloat16*>(a.out.data)[at] = __float2bfloat16_rn(value);
      else
        static_cast<float*>(a.out.data)[at] = value;
    }
}

template <class Kv, int EK, int EV, int G, int U, bool Latent>
void launch_attend(const Attention& a, const RowTables& tables, cudaStream_t stream) {
  const int group = a.heads / a.kv_heads, chunks = (group + G - 1) / G;
  const dim3 grid(grid_of(a.rows.max), static_cast<unsigned>(a.kv_heads * chunks),
                  static_cast<unsigned>(a.parts));
  launch("attend", attend_part<Kv, EK, EV, G, U, Latent>, grid, attend_threads, 0, stream, a, tables);
}

/// Attention over a cache of this type.
template <class Kv>
void attend_over(const Attention& a, const RowTables& tables, cudaStream_t stream);

}  // namespace convoy::cuda
