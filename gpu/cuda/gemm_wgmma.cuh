#pragma once
// What the products on wgmma share: a block's threads, and how a stage of its ring is multiplied.

#include "gpu/cuda/gemm_args.cuh"
#include "gpu/cuda/wgmma.cuh"

namespace convoy::cuda {

/// Two groups of four warps multiply; one thread of a warp of its own fetches.
inline constexpr int group_threads = 128, groups = 2, consumers = groups * group_threads,
                     block_threads = consumers + 32;
inline constexpr int product_outputs = 64, round_outputs = groups * product_outputs;
inline constexpr int line_bytes = tile_columns * 2;
inline constexpr int stages_max = 24, shared_max = 216 * 1024;

/// From a row of sums to the next, of so many outputs: what a warp writes at once lies in different banks.
__host__ __device__ constexpr int sums_pitch(int outputs) { return (outputs + 15) / 16 * 16 + 4; }

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

__device__ __forceinline__ void sync_consumers() {
  asm volatile("bar.sync 1, %0;" ::"n"(consumers) : "memory");
}

/// Adds the products of tile_columns columns: of group g rounds p, each 64 outputs from (2 · p + g) · 64 on.
/// They may be under way still.
template <int Rows, int Products>
__device__ __forceinline__ void multiply_stage(float (&sums)[Products][Rows / 2], const std::byte* weights,
                                               const std::byte* rows, int group) {
  begin_wgmma();
#pragma unroll
  for (int p = 0; p < Products; p++)
#pragma unroll
    for (int step = 0; step < tile_columns / 16; step++)
      wgmma<Rows>(sums[p], tile_operand(weights + (p * groups + group) * product_outputs * line_bytes, step),
                  tile_operand(rows, step));
  end_wgmma();
}

/// Leaves a thread's sums in [Rows][pitch], as far as there are outputs.
template <int Rows, int Products>
__device__ __forceinline__ void keep_sums(const float (&sums)[Products][Rows / 2], float* to, int pitch,
                                          int outputs) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  const int first = thread / group_threads * product_outputs + thread % group_threads / 32 * 16 + lane / 4;
#pragma unroll
  for (int p = 0; p < Products; p++)
#pragma unroll
    for (int j = 0; j < Rows / 8; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int output = first + p * round_outputs + e / 2 * 8;
        if (output < outputs) to[(j * 8 + lane % 4 * 2 + e % 2) * pitch + output] = sums[p][j * 4 + e];
      }
}

#endif

}  // namespace convoy::cuda
