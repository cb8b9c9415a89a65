#pragma once
// Products of up to 64 rows of bf16 on compute capability 9.0: weights come by TMA into a deep ring in shared
// memory, where the tensor cores read them. Nothing of a weight passes a register.

#include "gpu/cuda/gemm_stream.hpp"

namespace convoy::cuda {

inline constexpr int wgmma_rows_max = 64;
/// Whether this card and these sizes are what the kernel is for. Norms that are whole, and visits, are not.
bool takes_wgmma(const StreamCall& call);
/// As stream(), and with norms in halves. All of rows.max rows of `in` are read; those behind the last may be
/// anything.
void multiply_wgmma(const StreamCall& call, cudaStream_t stream);
/// The same of experts' visits, which are by_tma.
void multiply_visits(const StreamCall& call, const Visits& visits, int tile_rows, cudaStream_t stream);
/// The height of tiles of so many rows' visits, of which an expert has `average`: all of a step's rows, if
/// they are up to 64. 0: there are none for this card, or streaming is as quick.
int wgmma_experts_tile(int64_t rows, int64_t average);
/// Whether experts' matrices are of such sizes.
bool takes_experts(const Matrix& weight);
/// The most tiles that a row of NormHalves::squares has.
inline constexpr int wgmma_tiles_max = 160;

}  // namespace convoy::cuda
