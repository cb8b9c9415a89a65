#include "gpu/cuda/gemm_launch.cuh"

namespace convoy::cuda {
CONVOY_COMPILE_GEMM(DType::q4_k)
CONVOY_COMPILE_GEMM(DType::q5_k)
CONVOY_COMPILE_GEMM(DType::q6_k)
}  // namespace convoy::cuda
