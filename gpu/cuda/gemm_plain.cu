#include "gpu/cuda/gemm_launch.cuh"

namespace convoy::cuda {
CONVOY_COMPILE_GEMM(DType::f32)
CONVOY_COMPILE_GEMM(DType::f16)
CONVOY_COMPILE_GEMM(DType::bf16)
}  // namespace convoy::cuda
