#pragma once
// Tensor cores: products of tiles in bf16, summed in float32 (mma.sync, m16n8k16), and how their operands are
// loaded and packed.

#include <cuda_bf16.h>

#include <cstdint>

namespace convoy::cuda {

__device__ __forceinline__ void load_matrices(uint32_t (&to)[4], const void* from) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(from));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address));
}

/// The same, each matrix transposed.
__device__ __forceinline__ void load_transposed(uint32_t (&to)[4], const void* from) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(from));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address));
}

/// sums += a · b: 16 rows of a, 8 columns of b. A thread has, with group = lane / 4 and quarter = lane % 4,
/// of a: rows group and group + 8, columns 2 · quarter and the next, then the same 8 further (in the order
/// row, row + 8, row, row + 8); of b: column group, the same rows; of the sums: rows group and group + 8,
/// columns 2 · quarter and the next.
__device__ __forceinline__ void mma(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};\n"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// sums = a · b
__device__ __forceinline__ void first_mma(float (&sums)[4], const uint32_t (&a)[4], uint32_t b0,
                                          uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%10, %10, %10, %10};\n"
      : "=f"(sums[0]), "=f"(sums[1]), "=f"(sums[2]), "=f"(sums[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(0.0f));
}

__device__ __forceinline__ uint32_t two_bf16(float low, float high) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&both);
}

__device__ __forceinline__ uint4 packed_bf16(const float (&v)[8]) {
  return {two_bf16(v[0], v[1]), two_bf16(v[2], v[3]), two_bf16(v[4], v[5]), two_bf16(v[6], v[7])};
}

__device__ __forceinline__ void add_weighted(float4& sum, const float4& v, float weight) {
  sum.x = fmaf(v.x, weight, sum.x), sum.y = fmaf(v.y, weight, sum.y);
  sum.z = fmaf(v.z, weight, sum.z), sum.w = fmaf(v.w, weight, sum.w);
}

/// Sixteen bytes from global into shared memory, behind the thread's back.
__device__ __forceinline__ void copy_async(void* to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(to))),
               "l"(from));
}
/// For weights, which a step reads once: they make room first in the second-level cache, so that what every
/// layer reads (rows, tables, rotations) is still there in the next.
__device__ __forceinline__ uint64_t read_once() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
/// The same of weights, or zeros if they are not there.
__device__ __forceinline__ void copy_weights_or_zeros(void* to, const void* from, bool there,
                                                      uint64_t policy) {
  asm volatile("cp.async.cg.shared.global.L2::cache_hint.L2::128B [%0], [%1], 16, %2, %3;\n" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(to))),
               "l"(from), "r"(there ? 16 : 0), "l"(policy));
}
/// The same of four bytes.
__device__ __forceinline__ void copy_word_or_zeros(void* to, const void* from, bool there) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(to))),
               "l"(from), "r"(there ? 4 : 0));
}
__device__ __forceinline__ void end_copies() { asm volatile("cp.async.commit_group;\n"); }
/// Until at most `Left` groups of the thread's copies are under way.
template <int Left>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(Left) : "memory");
}

}  // namespace convoy::cuda
