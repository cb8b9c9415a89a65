#pragma once
// Tensor cores fed from shared memory (wgmma, compute capability 9.0a; PTX ISA, "Asynchronous warpgroup level
// matrix instructions"): four warps multiply a tile of 64 weight rows by up to 64 activation rows.

#include "gpu/cuda/tma.cuh"

namespace convoy::cuda {

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

/// A tile that fetch_tile() brought, as an operand whose columns are summed over: groups of eight rows lie
/// 1,024 bytes apart, their pieces swizzled by 128 bytes. `step`: the 16 columns that a product takes.
__device__ __forceinline__ uint64_t tile_operand(const void* tile, int step) {
  constexpr uint64_t group_pitch = uint64_t{1024 >> 4} << 32, unused = uint64_t{1} << 16,
                     swizzled = uint64_t{1} << 62;
  return (shared_address(tile) >> 4) + static_cast<uint32_t>(step * 2) + (group_pitch | unused | swizzled);
}

__device__ __forceinline__ void begin_wgmma() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void end_wgmma() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/// Until at most `Left` groups are under way.
template <int Left>
__device__ __forceinline__ void wait_for_wgmma() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Left) : "memory");
}

/// sums += a · bᵀ: 64 rows of a, `Rows` rows of b, 16 columns of both. A thread has, with group and quarter
/// of its lane as in mma.cuh, four values of each eight rows of b: for a's row 16 · warp + group those of b's
/// rows 2 · quarter and the next, then the same for a's row 8 further.
template <int Rows>
__device__ __forceinline__ void wgmma(float (&s)[Rows / 2], uint64_t a, uint64_t b) {
  static_assert(Rows == 16 || Rows == 32 || Rows == 64);
  // clang-format off
  if constexpr (Rows == 16) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7"
        "}, %8, %9, 1, 1, 1, 0, 0;"
        : "+f"(s[0]), "+f"(s[1]), "+f"(s[2]), "+f"(s[3]), "+f"(s[4]), "+f"(s[5]),
          "+f"(s[6]), "+f"(s[7])
        : "l"(a), "l"(b));
  }
  if constexpr (Rows == 32) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
        "}, %16, %17, 1, 1, 1, 0, 0;"
        : "+f"(s[0]), "+f"(s[1]), "+f"(s[2]), "+f"(s[3]), "+f"(s[4]), "+f"(s[5]),
          "+f"(s[6]), "+f"(s[7]), "+f"(s[8]), "+f"(s[9]), "+f"(s[10]), "+f"(s[11]),
          "+f"(s[12]), "+f"(s[13]), "+f"(s[14]), "+f"(s[15])
        : "l"(a), "l"(b));
  }
  if constexpr (Rows == 64) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
        "}, %32, %33, 1, 1, 1, 0, 0;"
        : "+f"(s[0]), "+f"(s[1]), "+f"(s[2]), "+f"(s[3]), "+f"(s[4]), "+f"(s[5]),
          "+f"(s[6]), "+f"(s[7]), "+f"(s[8]), "+f"(s[9]), "+f"(s[10]), "+f"(s[11]),
          "+f"(s[12]), "+f"(s[13]), "+f"(s[14]), "+f"(s[15]), "+f"(s[16]), "+f"(s[17]),
          "+f"(s[18]), "+f"(s[19]), "+f"(s[20]), "+f"(s[21]), "+f"(s[22]), "+f"(s[23]),
          "+f"(s[24]), "+f"(s[25]), "+f"(s[26]), "+f"(s[27]), "+f"(s[28]), "+f"(s[29]),
          "+f"(s[30]), "+f"(s[31])
        : "l"(a), "l"(b));
  }
  // clang-format on
}

#endif

}  // namespace convoy::cuda
