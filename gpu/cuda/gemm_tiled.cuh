#pragma once
// Many rows: a block computes a tile of 64 rows by 64 (float32) or 128 (bf16) outputs, walking over the
// columns in one order, the next part of the operands on its way while this one is multiplied.

#include "gpu/cuda/gemm_args.cuh"
#include "gpu/cuda/mma.cuh"

namespace convoy::cuda {

inline constexpr int tiled_threads = 256;

// ---- float32: every product and sum by FFMA, no tensor cores

inline constexpr int float_outputs = 64, float_columns = 16;

template <DType W>
__global__ void __launch_bounds__(tiled_threads) tiled_gemm_f32(const GemmArgs args) {
  __shared__ float rows_part[float_columns][tiled_rows + 4], outputs_part[float_columns][float_outputs + 4];
  follow_previous();
  const Tile tile = tile_of(args, static_cast<int>(blockIdx.y), tiled_rows);
  if (tile.rows <= 0) return;
  int first = static_cast<int>(blockIdx.x) * float_outputs;
  const Product& product = args.products[find_product(args, first)];
  const Matrix weight = of_expert(product.weight, tile.expert);
  const int thread = static_cast<int>(threadIdx.x), columns = padded(weight.columns);

  // The first half of the threads fetches activations, the second weights: eight values each.
  const bool fetches_rows = thread < tiled_threads / 2;
  const int fetched = thread % (tiled_threads / 2) / 2, fetched_column = thread % 2 * chunk_values;
  const float* const in =
      static_cast<const float*>(args.in) + input_row(args, tile, min(fetched, tile.rows - 1)) * args.in_pitch;
  const int fetched_output = min(first + fetched, weight.rows - 1);

  const int row = thread / 16 * 4, output = thread % 16 * 4;
  float sums[4][4] = {};
  for (int k = 0; k < columns; k += float_columns) {
    float values[chunk_values] = {};
    if (k + fetched_column < columns) {
      if (fetches_rows)
        load_eight(in + k + fetched_column, values);
      else
        Decoder<W>::eight(weight, fetched_output, k + fetched_column, values);
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < chunk_values; i++)
      (fetches_rows ? rows_part[fetched_column + i] : outputs_part[fetched_column + i])[fetched] = values[i];
    __syncthreads();
#pragma unroll
    for (int i = 0; i < float_columns; i++) {
      const float4 a = *reinterpret_cast<const float4*>(&rows_part[i][row]),
                   b = *reinterpret_cast<const float4*>(&outputs_part[i][output]);
      const float x[4] = {a.x, a.y, a.z, a.w}, w[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
      for (int r = 0; r < 4; r++)
#pragma unroll
        for (int o = 0; o < 4; o++) sums[r][o] = fmaf(x[r], w[o], sums[r][o]);
    }
  }
#pragma unroll
  for (int r = 0; r < 4; r++)
#pragma unroll
    for (int o = 0; o < 4; o++) {
      const int at = first + output + o;
      if (row + r >= tile.rows || at >= weight.rows) continue;
      put(product, product.out + (tile.first + row + r) * product.pitch + at,
          sums[r][o] + (product.bias ? product.bias[at] : 0.0f));
    }
}

// ---- bf16: tensor cores, float32 sums

inline constexpr int mma_outputs = 128, mma_columns = 32;
/// Values from a row to the next in shared memory: eight rows' chunks lie in different banks.
inline constexpr int mma_pitch = mma_columns + 8;

/// Eight values of a weight as bf16.
template <DType W>
__device__ __forceinline__ uint4 eight_bf16(const Matrix& m, int row, int column) {
  if constexpr (W == DType::bf16) return read<uint4>(m.data + row * m.pitch + column * 2);
  float v[chunk_values];
  Decoder<W>::eight(m, row, column, v);
  return {two_bf16(v[0], v[1]), two_bf16(v[2], v[3]), two_bf16(v[4], v[5]), two_bf16(v[6], v[7])};
}

template <DType W>
__global__ void __launch_bounds__(tiled_threads) tiled_gemm_bf16(const GemmArgs args) {
  constexpr int chunks = mma_columns / chunk_values, row_step = tiled_threads / chunks;  // 4, 64
  __shared__ __align__(16) __nv_bfloat16 rows_part[2][tiled_rows][mma_pitch];
  __shared__ __align__(16) __nv_bfloat16 outputs_part[2][mma_outputs][mma_pitch];
  follow_previous();
  const Tile tile = tile_of(args, static_cast<int>(blockIdx.y), tiled_rows);
  if (tile.rows <= 0) return;
  int first = static_cast<int>(blockIdx.x) * mma_outputs;
  const Product& product = args.products[find_product(args, first)];
  const Matrix weight = of_expert(product.weight, tile.expert);
  const int thread = static_cast<int>(threadIdx.x), columns = padded(weight.columns);

  const int fetched = thread / chunks, fetched_column = thread % chunks * chunk_values;
  const __nv_bfloat16* const in = static_cast<const __nv_bfloat16*>(args.in) +
                                  input_row(args, tile, min(fetched, tile.rows - 1)) * args.in_pitch;
  const int outputs[2] = {min(first + fetched, weight.rows - 1),
                          min(first + fetched + row_step, weight.rows - 1)};
  uint4 next[3];
  const auto fetch = [&](int k) {
    const int column = k + fetched_column;
    const bool there = column < columns;
    next[0] = there ? *reinterpret_cast<const uint4*>(in + column) : uint4{0, 0, 0, 0};
    next[1] = there ? eight_bf16<W>(weight, outputs[0], column) : uint4{0, 0, 0, 0};
    next[2] = there ? eight_bf16<W>(weight, outputs[1], column) : uint4{0, 0, 0, 0};
  };
  const auto keep = [&](int stage) {
    *reinterpret_cast<uint4*>(&rows_part[stage][fetched][fetched_column]) = next[0];
    *reinterpret_cast<uint4*>(&outputs_part[stage][fetched][fetched_column]) = next[1];
    *reinterpret_cast<uint4*>(&outputs_part[stage][fetched + row_step][fetched_column]) = next[2];
  };

  const int warp = thread / 32, lane = thread % 32;
  const int row = warp / 4 * 32, output = warp % 4 * 32;  // of the warp's 32 by 32
  float sums[2][4][4] = {};
  fetch(0);
  keep(0);
  __syncthreads();
  for (int k = 0, stage = 0; k < columns; k += mma_columns, stage ^= 1) {
    const bool more = k + mma_columns < columns;
    if (more) fetch(k + mma_columns);
#pragma unroll
    for (int step = 0; step < mma_columns; step += 16) {
      uint32_t a[2][4], b[2][4];
#pragma unroll
      for (int i = 0; i < 2; i++)
        load_matrices(a[i], &rows_part[stage][row + i * 16 + lane % 16][step + lane / 16 * 8]);
#pragma unroll
      for (int i = 0; i < 2; i++)
        load_matrices(
            b[i], &outputs_part[stage][output + i * 16 + lane / 16 * 8 + lane % 8][step + lane / 8 % 2 * 8]);
#pragma unroll
      for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) mma(sums[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
    }
    if (more) keep(stage ^ 1);
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < 2; i++)
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int r = row + i * 16 + lane / 4 + e / 2 * 8, at = first + output + j * 8 + lane % 4 * 2 + e % 2;
        if (r >= tile.rows || at >= weight.rows) continue;
        put(product, product.out + (tile.first + r) * product.pitch + at,
            sums[i][j][e] + (product.bias ? product.bias[at] : 0.0f));
      }
}

}  // namespace convoy::cuda
