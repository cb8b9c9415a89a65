#pragma once
// How kernels of a step follow each other. Each may begin while the one before it runs (programmatic
// dependent launch), so that its blocks are in place and its weights on their way; it waits before it touches
// anything that a kernel of the step writes.

#include <cuda_runtime.h>

#include <string_view>
#include <type_traits>

#include "gpu/cuda/check.hpp"

namespace convoy::cuda {

/// The next kernel may begin: what it reads, it waits for.
__device__ __forceinline__ void let_next_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}
/// All that kernels before this one write is there. Every kernel says it, in some thread of some block at
/// least: the one behind it waits for this one alone.
__device__ __forceinline__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
/// Both, for kernels that have nothing to do beforehand.
__device__ __forceinline__ void follow_previous() {
  let_next_begin();
  wait_for_previous();
}

inline int card_attribute(cudaDeviceAttr attribute) {
  int card = 0, value = 0;
  check(cudaGetDevice(&card), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&value, attribute, card), "cudaDeviceGetAttribute");
  return value;
}
inline int multiprocessors() { return card_attribute(cudaDevAttrMultiProcessorCount); }
/// Bytes that a block may have: 99 KiB on some cards, 227 on others.
inline int shared_memory_max() { return card_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin); }
/// Bytes that a multiprocessor's blocks share; 1 KiB of each is not theirs.
inline int shared_memory_of_multiprocessor() {
  return card_attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor);
}

/// Whether the current card knows dependent launches, and clusters.
inline bool knows_dependent_launches() { return card_attribute(cudaDevAttrComputeCapabilityMajor) >= 9; }

/// Whether it has wgmma and TMA, and this library the machine code for them, which runs on no other
/// generation.
inline bool knows_wgmma() {
  constexpr bool compiled = std::string_view(CONVOY_CUDA_ARCHITECTURES).find("90a") != std::string_view::npos;
  return compiled && card_attribute(cudaDevAttrComputeCapabilityMajor) == 9;
}

/// Launches a kernel of a step; `what` names it in errors. `cluster`: blocks along z that form one.
template <class... Parameters>
void launch_clusters(const char* what, void (*kernel)(Parameters...), dim3 grid, int cluster, int threads,
                     size_t shared, cudaStream_t stream,
                     const std::type_identity_t<Parameters>&... arguments) {
  cudaLaunchAttribute attributes[2]{};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {1, 1, static_cast<unsigned>(cluster)};
  cudaLaunchConfig_t config{};
  config.gridDim = grid, config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared, config.stream = stream;
  config.attrs = attributes, config.numAttrs = !knows_dependent_launches() ? 0 : cluster > 1 ? 2 : 1;
  check(cudaLaunchKernelEx(&config, kernel, arguments...), what);
}

template <class... Parameters>
void launch(const char* what, void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared,
            cudaStream_t stream, const std::type_identity_t<Parameters>&... arguments) {
  launch_clusters(what, kernel, grid, 1, threads, shared, stream, arguments...);
}

}  // namespace convoy::cuda
