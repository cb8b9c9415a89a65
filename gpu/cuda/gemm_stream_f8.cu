#include "gpu/cuda/gemm_stream_kernel.cuh"

namespace convoy::cuda {
template void stream_type<DType::f8_e4m3>(const StreamArgs&, cudaStream_t);
template void stream_type<DType::i8>(const StreamArgs&, cudaStream_t);
}  // namespace convoy::cuda
