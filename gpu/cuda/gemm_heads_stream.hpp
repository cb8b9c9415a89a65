#pragma once
// Products of heads (gemm.hpp) whose weights and activations are bf16, on tensor cores.

#include "gpu/cuda/elementwise.hpp"

namespace convoy::cuda {

/// multiply_heads, multiply_heads_transposed of activations that may be rounded to bf16. False: there is no
/// kernel for this shape.
bool stream_heads(const HeadProduct& product, bool transposed, cudaStream_t stream);

/// multiply_heads_transposed, and write_latent, which gives the rest of the product's output, in one launch.
/// False: there is no kernel for this shape.
bool stream_heads_and_write(const HeadProduct& product, const LatentWrite& write, const RowTables& tables,
                            cudaStream_t stream);

}  // namespace convoy::cuda
