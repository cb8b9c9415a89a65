#include "gpu/cuda/gemm_stream_kernel.cuh"

namespace convoy::cuda {
template void stream_type<DType::bf16>(const StreamArgs&, cudaStream_t);
}  // namespace convoy::cuda
