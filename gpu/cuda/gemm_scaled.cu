#include "gpu/cuda/gemm_launch.cuh"

namespace convoy::cuda {
CONVOY_COMPILE_GEMM(DType::f8_e4m3)
CONVOY_COMPILE_GEMM(DType::i8)
}  // namespace convoy::cuda
