#include "gpu/cuda/gemm_stream_experts_kernel.cuh"

namespace convoy::cuda {
template void stream_experts_type<DType::q8_0>(const ExpertArgs&, int, cudaStream_t);
}  // namespace convoy::cuda
