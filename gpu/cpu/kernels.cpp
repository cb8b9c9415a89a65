#include "gpu/cpu/kernels.hpp"

namespace convoy::gpu {

bool supports_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

bool supports_avx512vnni() {
  return supports_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vnni");
}

const KernelTable* best_kernels() {
  if (supports_avx512vnni()) return &avx512vnni_kernels();
  if (supports_avx2()) return &avx2_kernels();
  return nullptr;
}

}  // namespace convoy::gpu
