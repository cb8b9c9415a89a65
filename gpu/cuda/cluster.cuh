#pragma once
// Blocks of a cluster wait for each other and read each other's shared memory (compute capability 9.0 and
// later; before, a block is alone).

#include "gpu/cuda/launch.cuh"

namespace convoy::cuda {

/// How many clusters of `size` blocks of a kernel the current card takes at once.
template <class... Parameters>
int active_clusters(void (*kernel)(Parameters...), int threads, size_t shared, int size) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1),
        "cudaFuncSetAttribute");
  if (shared > 0)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
          "cudaFuncSetAttribute");
  const auto blocks = static_cast<unsigned>(size);
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension, cluster.val.clusterDim = {1, 1, blocks};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(1, 1, blocks), config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared, config.attrs = &cluster, config.numAttrs = 1;
  int at_once = 0;
  check(cudaOccupancyMaxActiveClusters(&at_once, kernel, &config), "cudaOccupancyMaxActiveClusters");
  return at_once;
}

/// All threads of all blocks of the cluster are here, and what they wrote is seen.
__device__ __forceinline__ void sync_cluster() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
  __syncthreads();
#endif
}

/// What lies at `own`, in shared memory, in the block of that rank.
__device__ __forceinline__ float4 load_four(const float* own, int rank) {
#if __CUDA_ARCH__ >= 900
  float4 v;
  asm volatile(
      "{\n.reg .u32 at;\nmapa.shared::cluster.u32 at, %4, %5;\n"
      "ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [at];\n}"
      : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
      : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(own))), "r"(rank)
      : "memory");
  return v;
#else
  return *reinterpret_cast<const float4*>(own);
#endif
}
__device__ __forceinline__ float2 load_two(const float2* own, int rank) {
#if __CUDA_ARCH__ >= 900
  float2 v;
  asm volatile(
      "{\n.reg .u32 at;\nmapa.shared::cluster.u32 at, %2, %3;\nld.shared::cluster.v2.f32 {%0, %1}, [at];\n}"
      : "=f"(v.x), "=f"(v.y)
      : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(own))), "r"(rank)
      : "memory");
  return v;
#else
  return *own;
#endif
}

}  // namespace convoy::cuda
