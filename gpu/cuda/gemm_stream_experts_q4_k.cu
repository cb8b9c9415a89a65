#include "gpu/cuda/gemm_stream_experts_kernel.cuh"

namespace convoy::cuda {
template void stream_experts_type<DType::q4_k>(const ExpertArgs&, int, cudaStream_t);
}  // namespace convoy::cuda
