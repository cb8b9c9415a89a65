#pragma once
// Products of few rows whose activations are bf16, at the speed at which memory gives the weights: on tensor
// cores, whose tile of 16 weight rows by 8 activation rows fits as it is. Weights are bf16, or of a type
// whose values are exact in it: FP8, int8 and some of GGUF.

#include "gpu/cuda/gemm.hpp"

namespace convoy::cuda {

/// out = in · weightᵀ (+ bias) (+ out), of up to stream_rows_max rows at once; or with `up` and `gated`
/// silu(gate) ⊙ up in bf16.
struct StreamCall {
  Product product;              // or the gate's
  const Product* up = nullptr;  // as large as the gate
  Rows gated;                   // if there is `up`
  Rows in;
  const Norm* norm = nullptr;  // instead of `in`, where stream_takes_norm says so
  bool keeps_norm = false;
  const NormHalves* halved = nullptr;  // as GemmCall's, where takes_wgmma says so
  NormHalves* halves = nullptr;
  RowRange rows;
};
void stream(const StreamCall& call, cudaStream_t cuda_stream);
bool stream_takes_norm(int64_t columns, int64_t rows);

inline constexpr int stream_rows_max = 32;
/// The lowest of the kernels' heights that holds so many rows.
constexpr int stream_tile(int64_t rows) { return rows <= 8 ? 8 : rows <= 16 ? 16 : stream_rows_max; }

/// The same of experts' visits, in tiles of so many rows: 8, 16 or 32 (the call's `rows` and `norm` are not
/// looked at).
void stream_visits(const StreamCall& call, const Visits& visits, int tile_rows, cudaStream_t cuda_stream);
/// The height of tiles that suits `rows` of an expert; less where rows are too wide, 0 where a few do not
/// fit.
int stream_experts_tile(DType type, int64_t rows, int64_t columns);

/// Calls use.operator()<type>() for a type that is_streamed().
template <class Use>
void for_streamed(DType type, const Use& use) {
  for_type(type, [&]<DType W>() {
    if constexpr (is_streamed(W)) use.template operator()<W>();
  });
}

}  // namespace convoy::cuda
