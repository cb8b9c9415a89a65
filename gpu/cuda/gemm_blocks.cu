#include "gpu/cuda/gemm_launch.cuh"

namespace convoy::cuda {
CONVOY_COMPILE_GEMM(DType::q8_0)
CONVOY_COMPILE_GEMM(DType::q4_0)
CONVOY_COMPILE_GEMM(DType::q4_1)
CONVOY_COMPILE_GEMM(DType::iq4_nl)
}  // namespace convoy::cuda
