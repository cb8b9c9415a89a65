#pragma once
// The launches of one weight type's products. gemm_plain.cu and its neighbours compile them, a few types
// each, so that they compile beside each other.

#include "gpu/cuda/check.hpp"
#include "gpu/cuda/gemm_heads.cuh"
#include "gpu/cuda/gemm_skinny.cuh"
#include "gpu/cuda/gemm_tiled.cuh"

namespace convoy::cuda {

inline unsigned blocks_for(int64_t count, int64_t of_block) {
  return static_cast<unsigned>((count + of_block - 1) / of_block);
}

/// Products whose weights have type W.
template <DType W>
void launch_gemm(const GemmCall& call, cudaStream_t stream) {
  const bool few = call.kind == GemmKind::few_rows, narrow = call.in.type == Activations::bf16;
  const int outputs = few ? skinny_warps * skinny_outputs : narrow ? mma_outputs : float_outputs;
  GemmArgs args{};
  args.count = call.count, args.in = call.in.data, args.in_pitch = call.in.pitch, args.rows = call.rows;
  int64_t all = 0;
  for (int i = 0; i < call.count; i++) {
    args.products[i] = call.products[i];
    all += blocks_for(call.products[i].weight.rows, outputs) * int64_t{outputs};
    args.ends[i] = static_cast<int32_t>(all);
  }
  if (call.visits) args.visits = *call.visits;
  const int tiles = call.visits ? call.visits->tiles_max
                                : static_cast<int>(blocks_for(call.rows.max, tile_rows(call.kind)));
  const dim3 grid(static_cast<unsigned>(all / outputs), static_cast<unsigned>(tiles));
  if (few) {
    constexpr int threads = skinny_warps * 32;
    const bool one = !call.visits && call.rows.max == 1;
    if (narrow && one)
      launch("a product", skinny_gemm<W, __nv_bfloat16, 1>, grid, threads, 0, stream, args);
    else if (narrow)
      launch("a product", skinny_gemm<W, __nv_bfloat16, skinny_rows>, grid, threads, 0, stream, args);
    else if (one)
      launch("a product", skinny_gemm<W, float, 1>, grid, threads, 0, stream, args);
    else
      launch("a product", skinny_gemm<W, float, skinny_rows>, grid, threads, 0, stream, args);
  } else if (narrow) {
    launch("a product", tiled_gemm_bf16<W>, grid, tiled_threads, 0, stream, args);
  } else {
    launch("a product", tiled_gemm_f32<W>, grid, tiled_threads, 0, stream, args);
  }
}

template <DType W>
void launch_heads(const HeadProduct& p, bool transposed, cudaStream_t stream) {
  const unsigned heads = static_cast<unsigned>(p.heads), tiles = blocks_for(p.rows.max, head_rows);
  if (transposed) {
    const dim3 grid(heads, tiles, blocks_for(p.weight.columns, transposed_columns));
    const size_t shared =
        static_cast<size_t>(head_rows) * static_cast<size_t>(p.rows_of_head) * sizeof(float);
    launch("a head product", head_gemm_transposed<W>, grid, head_threads, shared, stream, HeadArgs{p});
  } else {
    const dim3 grid(heads, tiles, blocks_for(p.rows_of_head, head_outputs));
    const size_t shared =
        static_cast<size_t>(head_rows) * static_cast<size_t>(padded(p.weight.columns)) * sizeof(float);
    if (p.out_type == Activations::bf16)
      launch("a head product", head_gemm<W, __nv_bfloat16>, grid, head_threads, shared, stream, HeadArgs{p});
    else
      launch("a head product", head_gemm<W, float>, grid, head_threads, shared, stream, HeadArgs{p});
  }
}

/// A weight in bf16, rows one behind the other: a thread eight values at a time. Bytes: what is read, and two
/// a value.
template <DType W>
__global__ void __launch_bounds__(tiled_threads) expand_weight(const Matrix weight, __nv_bfloat16* to) {
  follow_previous();
  const int chunks = padded(weight.columns) / chunk_values;
  const int64_t all = int64_t{weight.rows} * chunks, step = int64_t{gridDim.x} * tiled_threads;
  for (int64_t i = int64_t{blockIdx.x} * tiled_threads + threadIdx.x; i < all; i += step)
    reinterpret_cast<uint4*>(to)[i] =
        eight_bf16<W>(weight, static_cast<int>(i / chunks), static_cast<int>(i % chunks) * chunk_values);
}

template <DType W>
void launch_expand(const Matrix& weight, __nv_bfloat16* to, cudaStream_t stream) {
  constexpr int blocks_of_multiprocessor = 8;
  launch("expanding a weight", expand_weight<W>,
         static_cast<unsigned>(blocks_of_multiprocessor * multiprocessors()), tiled_threads, 0, stream,
         weight, to);
}

#define CONVOY_COMPILE_GEMM(type)                                           \
  template void launch_gemm<type>(const GemmCall&, cudaStream_t);           \
  template void launch_heads<type>(const HeadProduct&, bool, cudaStream_t); \
  template void launch_expand<type>(const Matrix&, __nv_bfloat16*, cudaStream_t);

}  // namespace convoy::cuda
