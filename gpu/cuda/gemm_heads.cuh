#pragma once
// Products for each head with its own rows of a matrix: latent attention's way into the latents' space and
// out of it. A block takes eight rows of activations and a part of one head's outputs.

#include "gpu/cuda/gemm_args.cuh"

namespace convoy::cuda {

inline constexpr int head_rows = 8, head_threads = 256, head_outputs = 8;  // outputs: of a block

struct HeadArgs {
  HeadProduct product;
};

/// Rows that a block has, from its first one.
__device__ __forceinline__ int rows_left(const RowRange& rows, int first) {
  return min(min(head_rows, rows.max - first), *rows.count - rows.first - first);
}

__device__ __forceinline__ float input_of(const HeadProduct& p, int row, int head, int column) {
  const int64_t at = row * p.in_pitch + head * p.in_head + column;
  return p.in_type == Activations::bf16 ? __bfloat162float(static_cast<const __nv_bfloat16*>(p.in)[at])
                                        : static_cast<const float*>(p.in)[at];
}

/// out[o] = Σ weight[o][c] · in[c]: a warp an output.
template <DType W, class Out>
__global__ void __launch_bounds__(head_threads) head_gemm(const HeadArgs args) {
  extern __shared__ float4 shared[];
  float* const in = reinterpret_cast<float*>(shared);  // [head_rows, columns]
  follow_previous();
  const HeadProduct& p = args.product;
  const int head = static_cast<int>(blockIdx.x), first = static_cast<int>(blockIdx.y) * head_rows;
  const int count = rows_left(p.rows, first);
  if (count <= 0) return;
  const int columns = padded(p.weight.columns);
  for (int i = static_cast<int>(threadIdx.x); i < count * columns; i += head_threads) {
    const int r = i / columns, c = i % columns;
    const bool there = c < p.weight.columns;
    in[i] = there ? input_of(p, first + r, head, c) : 0.0f;
  }
  __syncthreads();
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int begin = static_cast<int>(blockIdx.z) * head_outputs,
            end = min(begin + head_outputs, p.rows_of_head);
  for (int o = begin + warp; o < end; o += head_threads / 32) {
    float sums[head_rows] = {};
    for (int c = lane * chunk_values; c < columns; c += 32 * chunk_values) {
      float w[chunk_values];
      Decoder<W>::eight(p.weight, head * p.row_stride + p.row_first + o, c, w);
#pragma unroll
      for (int r = 0; r < head_rows; r++) {
        if (r >= count) break;
        float x[chunk_values];
        load_eight(in + r * columns + c, x);
#pragma unroll
        for (int i = 0; i < chunk_values; i++) sums[r] = fmaf(w[i], x[i], sums[r]);
      }
    }
#pragma unroll
    for (int r = 0; r < head_rows; r++) {
      const float sum = warp_sum(sums[r]);
      if (lane == 0 && r < count)
        store(static_cast<Out*>(p.out) + (first + r) * p.out_pitch + head * p.out_head + o, sum);
    }
  }
}

/// A warp has 16 columns, eight for each of two threads, and sixteen pairs of threads take turns at the rows.
inline constexpr int transposed_columns = head_threads / 32 * 16;

/// out[c] = Σ weight[i][c] · in[i]: a block 128 columns.
template <DType W>
__global__ void __launch_bounds__(head_threads) head_gemm_transposed(const HeadArgs args) {
  extern __shared__ float4 shared[];
  float* const in = reinterpret_cast<float*>(shared);  // [rows_of_head, head_rows]
  follow_previous();
  const HeadProduct& p = args.product;
  const int head = static_cast<int>(blockIdx.x), first = static_cast<int>(blockIdx.y) * head_rows;
  const int count = rows_left(p.rows, first);
  if (count <= 0) return;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  for (int i = thread; i < count * p.rows_of_head; i += head_threads) {
    const int r = i / p.rows_of_head, c = i % p.rows_of_head;
    in[c * head_rows + r] = input_of(p, first + r, head, c);
  }
  __syncthreads();
  const int column = static_cast<int>(blockIdx.z) * transposed_columns + warp * 16 + lane % 2 * chunk_values;
  float sums[head_rows][chunk_values] = {};
  if (column < padded(p.weight.columns))
#pragma unroll 4
    for (int i = lane / 2; i < p.rows_of_head; i += 16) {
      float w[chunk_values];
      Decoder<W>::eight(p.weight, head * p.row_stride + p.row_first + i, column, w);
#pragma unroll
      for (int r = 0; r < head_rows; r++) {
        if (r >= count) break;
        const float x = in[i * head_rows + r];
#pragma unroll
        for (int c = 0; c < chunk_values; c++) sums[r][c] = fmaf(w[c], x, sums[r][c]);
      }
    }
#pragma unroll
  for (int r = 0; r < head_rows; r++) {
    if (r >= count) break;
#pragma unroll
    for (int c = 0; c < chunk_values; c++) {
      float sum = sums[r][c];
#pragma unroll
      for (int apart = 16; apart > 1; apart /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, apart);
      if (lane < 2 && column + c < p.weight.columns)
        static_cast<float*>(p.out)[(first + r) * p.out_pitch + head * p.out_head + column + c] = sum;
    }
  }
}

}  // namespace convoy::cuda
