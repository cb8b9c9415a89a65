#pragma once
// Products of few rows whose weights and activations are bf16, at the speed at which memory gives the
// weights: on tensor cores, whose tile of 16 weight rows by 8 activation rows fits as it is.

#include "gpu/cuda/gemm.hpp"

namespace convoy::cuda {

/// out = in · weightᵀ (+ bias), of up to stream_rows_max rows at once; or with `up` and `gated`
/// silu(gate) ⊙ up in bf16. Experts: as the visits say.
struct StreamCall {
  Product product;              // or the gate's
  const Product* up = nullptr;  // as large as the gate
  Rows gated;                   // if there is `up`
  Rows in;
  RowRange rows;
  const Visits* visits = nullptr;
  int tile_rows = 0;  // of the visits' tiles: 8, 16 or 32
};
void stream(const StreamCall& call, cudaStream_t cuda_stream);

inline constexpr int stream_rows_max = 32;
/// The lowest of the kernels' heights that holds so many rows.
constexpr int stream_tile(int64_t rows) { return rows <= 8 ? 8 : rows <= 16 ? 16 : stream_rows_max; }

/// Products of heads (multiply_heads, multiply_heads_transposed) whose activations may be rounded to bf16.
/// False: there is no kernel for this shape.
bool stream_heads(const HeadProduct& product, bool transposed, cudaStream_t stream);

}  // namespace convoy::cuda
