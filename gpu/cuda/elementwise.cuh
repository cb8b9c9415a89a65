#pragma once
// What kernels over rows share.

#include "gpu/cuda/elementwise.hpp"
#include "gpu/cuda/gemm_args.cuh"
#include "gpu/kv_block.hpp"

namespace convoy::cuda {

/// Whether row `row` of a launch is there.
__device__ __forceinline__ bool has_row(const RowRange& rows, int row) {
  return row < rows.max && row < *rows.count - rows.first;
}

/// The sum over a block of at most 1024 threads, in one order; every thread gets it.
__device__ __forceinline__ float block_sum(float value) {
  __shared__ float sums[32];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  value = warp_sum(value);
  __syncthreads();  // the last call's sums were read
  if (lane == 0) sums[warp] = value;
  __syncthreads();
  return warp_sum(lane < static_cast<int>(blockDim.x) / 32 ? sums[lane] : 0.0f);
}

/// Where a position's values begin in a stream of the cache.
__device__ __forceinline__ int64_t cache_index(const uint32_t* table, int position, int width) {
  constexpr int tokens = static_cast<int>(gpu::kv_block_tokens);
  return (int64_t{table[position / tokens]} * tokens + position % tokens) * width;
}

__device__ __forceinline__ void store_cached(const CacheStream& cache, int64_t index, float value) {
  if (cache.type == DType::f32)
    static_cast<float*>(cache.data)[index] = value;
  else if (cache.type == DType::bf16)
    static_cast<__nv_bfloat16*>(cache.data)[index] = __float2bfloat16_rn(value);
  else
    static_cast<__half*>(cache.data)[index] = __float2half_rn(value);
}

/// Value `i` of a head after it was turned; `head` is not changed.
__device__ __forceinline__ float turned(const RotationView& r, const float* head, int i, int position) {
  if (i >= 2 * r.half) return head[i];
  const int pair = r.interleaved ? i / 2 : i % r.half;
  const bool second = r.interleaved ? i % 2 : i >= r.half;
  const float a = head[r.interleaved ? 2 * pair : pair],
              b = head[r.interleaved ? 2 * pair + 1 : pair + r.half];
  const float cosine = r.cosines[int64_t{position} * r.half + pair],
              sine = r.sines[int64_t{position} * r.half + pair];
  return second ? b * cosine + a * sine : a * cosine - b * sine;
}

inline unsigned grid_of(int count) { return static_cast<unsigned>(count < 1 ? 1 : count); }

}  // namespace convoy::cuda
