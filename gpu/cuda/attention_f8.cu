#include "gpu/cuda/attention_over.cuh"

namespace convoy::cuda {
template void attend_over<Float8>(const Attention&, const RowTables&, cudaStream_t);
}  // namespace convoy::cuda
