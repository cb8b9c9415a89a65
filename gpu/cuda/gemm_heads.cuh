#pragma once
// Products for each head with its own rows of a matrix: latent attention's way into the latents' space and
// out of it. A block takes eight rows of activations and a part of one head's outputs.

#include "gpu/cuda/gemm_args.cuh"

namespace convoy::cuda {

inline constexpr int head_rows = 8, head_threads = 256, head_outputs = 32;  // outputs: of a block

struct HeadArgs {
  HeadProduct product;
};

/// Rows that a block has, from its first one.
__device__ __forceinline__ int rows_left(const RowRange& rows, int first) {
  return min(min(head_rows, rows.max - first), *rows.count - rows.first - first);
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
  for (int i = static_cast<int>(threadIdx.x); i < head_rows * columns; i += head_threads) {
    const int r = i / columns, c = i % columns;
    const bool there = r < count && c < p.weight.columns;
    in[i] = there ? p.in[(first + r) * p.in_pitch + head * p.in_head + c] : 0.0f;
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

inline constexpr int transposed_chunks = 64, transposed_groups = head_threads / transposed_chunks;

/// out[c] = Σ weight[i][c] · in[i]: a thread eight columns, four groups of threads a quarter of the rows
/// each, joined in one order.
template <DType W>
__global__ void __launch_bounds__(head_threads) head_gemm_transposed(const HeadArgs args) {
  extern __shared__ float4 shared[];
  constexpr int joined_pitch = head_rows * chunk_values + 1;
  float* const joined = reinterpret_cast<float*>(shared);       // [transposed_chunks, joined_pitch]
  float* const in = joined + transposed_chunks * joined_pitch;  // [rows_of_head, head_rows]
  follow_previous();
  const HeadProduct& p = args.product;
  const int head = static_cast<int>(blockIdx.x), first = static_cast<int>(blockIdx.y) * head_rows;
  const int count = rows_left(p.rows, first);
  if (count <= 0) return;
  for (int i = static_cast<int>(threadIdx.x); i < head_rows * p.rows_of_head; i += head_threads) {
    const int r = i / p.rows_of_head, c = i % p.rows_of_head;
    in[c * head_rows + r] = r < count ? p.in[(first + r) * p.in_pitch + head * p.in_head + c] : 0.0f;
  }
  __syncthreads();
  const int own = static_cast<int>(threadIdx.x) % transposed_chunks;
  const int group = static_cast<int>(threadIdx.x) / transposed_chunks;
  const int column = (static_cast<int>(blockIdx.z) * transposed_chunks + own) * chunk_values;
  float sums[head_rows][chunk_values] = {};
  if (column < padded(p.weight.columns))
#pragma unroll 2
    for (int i = group; i < p.rows_of_head; i += transposed_groups) {
      float w[chunk_values];
      Decoder<W>::eight(p.weight, head * p.row_stride + p.row_first + i, column, w);
#pragma unroll
      for (int r = 0; r < head_rows; r++) {
        const float x = in[i * head_rows + r];
#pragma unroll
        for (int c = 0; c < chunk_values; c++) sums[r][c] = fmaf(w[c], x, sums[r][c]);
      }
    }
  for (int g = 1; g < transposed_groups; g++) {
    float* const place = joined + own * joined_pitch;
    if (group == g)
#pragma unroll
      for (int i = 0; i < head_rows * chunk_values; i++) place[i] = sums[i / chunk_values][i % chunk_values];
    __syncthreads();
    if (group == 0)
#pragma unroll
      for (int i = 0; i < head_rows * chunk_values; i++) sums[i / chunk_values][i % chunk_values] += place[i];
    __syncthreads();
  }
  if (group != 0) return;
#pragma unroll
  for (int r = 0; r < head_rows; r++)
#pragma unroll
    for (int c = 0; c < chunk_values; c++)
      if (r < count && column + c < p.weight.columns)
        static_cast<float*>(p.out)[(first + r) * p.out_pitch + head * p.out_head + column + c] = sums[r][c];
}

}  // namespace convoy::cuda
