#include "gpu/cuda/gemm_stream_experts_kernel.cuh"

namespace convoy::cuda {
template void stream_experts_type<DType::f8_e4m3>(const ExpertArgs&, int, cudaStream_t);
template void stream_experts_type<DType::i8>(const ExpertArgs&, int, cudaStream_t);
}  // namespace convoy::cuda
