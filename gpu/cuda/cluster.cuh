#pragma once
// Blocks of a cluster wait for each other and read each other's shared memory (compute capability 9.0 and
// later; before, a block is alone).

#include "gpu/cuda/launch.cuh"

namespace convoy::cuda {

/// How many clusters of `size` blocks of a kernel the current card takes at once; 0: it knows no such.
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
  const cudaError_t answer = cudaOccupancyMaxActiveClusters(&at_once, kernel, &config);
  if (answer == cudaErrorInvalidClusterSize) return cudaGetLastError(), 0;
  check(answer, "cudaOccupancyMaxActiveClusters");
  return at_once;
}

/// The thread is here; what it wrote is seen by whoever waits for all threads of the cluster's blocks. Each
/// thread does both, in turns.
__device__ __forceinline__ void arrive_in_cluster() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}
__device__ __forceinline__ void wait_for_cluster() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
  __syncthreads();
#endif
}
__device__ __forceinline__ void sync_cluster() {
  arrive_in_cluster();
  wait_for_cluster();
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

/// Writes to where `own`, in shared memory, is in the block of that rank, which runs.
__device__ __forceinline__ void store_at(float4* own, int rank, const float4& v) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{\n.reg .u32 at;\nmapa.shared::cluster.u32 at, %0, %1;\n"
      "st.shared::cluster.v4.f32 [at], {%2, %3, %4, %5};\n}" ::"r"(
          static_cast<uint32_t>(__cvta_generic_to_shared(own))),
      "r"(rank), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w)
      : "memory");
#else
  *own = v;
#endif
}
__device__ __forceinline__ void store_at(float2* own, int rank, const float2& v) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{\n.reg .u32 at;\nmapa.shared::cluster.u32 at, %0, %1;\n"
      "st.shared::cluster.v2.f32 [at], {%2, %3};\n}" ::"r"(
          static_cast<uint32_t>(__cvta_generic_to_shared(own))),
      "r"(rank), "f"(v.x), "f"(v.y)
      : "memory");
#else
  *own = v;
#endif
}
__device__ __forceinline__ void store_at(float* own, int rank, float v) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{\n.reg .u32 at;\nmapa.shared::cluster.u32 at, %0, %1;\nst.shared::cluster.f32 [at], %2;\n}" ::"r"(
          static_cast<uint32_t>(__cvta_generic_to_shared(own))),
      "r"(rank), "f"(v)
      : "memory");
#else
  *own = v;
#endif
}
__device__ __forceinline__ void store_at(unsigned long long* own, int rank, unsigned long long v) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{\n.reg .u32 at;\nmapa.shared::cluster.u32 at, %0, %1;\nst.shared::cluster.u64 [at], %2;\n}" ::"r"(
          static_cast<uint32_t>(__cvta_generic_to_shared(own))),
      "r"(rank), "l"(v)
      : "memory");
#else
  *own = v;
#endif
}

}  // namespace convoy::cuda
