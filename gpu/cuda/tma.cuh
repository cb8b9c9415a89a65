#pragma once
// Copies of whole tiles from global into shared memory behind the threads' backs (TMA, compute
// capability 9.0), and the barriers in shared memory that say when they are there (PTX ISA,
// "cp.async.bulk.tensor", "mbarrier").

#include <cuda.h>

#include <cstdint>

#include "gpu/cuda/check.hpp"

namespace convoy::cuda {

/// bf16 values of a row in a tile: a line of 128 bytes, whose sixteen-byte pieces lie where wgmma looks for
/// them (swizzled by 128 bytes). A tile begins at a multiple of 1,024 bytes.
inline constexpr int tile_columns = 64, tile_align = 1024, tile_rows_max = 256;

/// Tiles of `tile_rows` rows by tile_columns of a bf16 matrix; what lies outside of it is zeros. `pitch`:
/// bytes, a multiple of 16.
inline CUtensorMap map_tiles(const void* data, int64_t rows, int64_t columns, int64_t pitch, int tile_rows) {
  static const auto encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found{};
    constexpr unsigned since = 12000;
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, since, cudaEnableDefault,
                                           &found),
          "cudaGetDriverEntryPointByVersion");
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
  }();
  CUtensorMap map{};
  const cuuint64_t sizes[]{static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t pitches[]{static_cast<cuuint64_t>(pitch)};
  const cuuint32_t box[]{tile_columns, static_cast<cuuint32_t>(tile_rows)}, steps[]{1, 1};
  if (!encode ||
      encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void*>(data), sizes, pitches, box, steps,
             CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
             CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) != CUDA_SUCCESS)
    check(cudaErrorInvalidValue, "cuTensorMapEncodeTiled");
  return map;
}

__device__ __forceinline__ uint32_t shared_address(const void* at) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(at));
}

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

/// One arrival for each thread that will come, and all bytes that were told, complete a phase.
__device__ __forceinline__ void init_barrier(uint64_t& barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&barrier)), "r"(arrivals));
}
/// What one thread has initialised, copies see.
__device__ __forceinline__ void show_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void arrive(uint64_t& barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&barrier)) : "memory");
}
__device__ __forceinline__ void arrive_and_expect(uint64_t& barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&barrier)),
               "r"(bytes)
               : "memory");
}
/// Until the phase of that parity is complete.
__device__ __forceinline__ void wait_for(uint64_t& barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\nagain:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra.uni ended;\nbra.uni again;\nended:\n}" ::"r"(shared_address(&barrier)),
      "r"(parity)
      : "memory");
}

/// The tile whose first value is [row, column]; the barrier is told its bytes.
__device__ __forceinline__ void fetch_tile(void* to, const CUtensorMap& map, int row, int column,
                                           uint64_t& barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], "
      "[%4];" ::"r"(shared_address(to)),
      "l"(&map), "r"(column), "r"(row), "r"(shared_address(&barrier))
      : "memory");
}
/// The same of weights, by read_once().
__device__ __forceinline__ void fetch_weight_tile(void* to, const CUtensorMap& map, int row, int column,
                                                  uint64_t& barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%2, %3}], [%4], %5;" ::"r"(shared_address(to)),
      "l"(&map), "r"(column), "r"(row), "r"(shared_address(&barrier)), "l"(policy)
      : "memory");
}
__device__ __forceinline__ void prefetch_map(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map));
}

#endif

}  // namespace convoy::cuda
