#pragma once
// What the kernels of products share: their arguments, and how a block finds its part.

#include "gpu/cuda/decode.cuh"
#include "gpu/cuda/gemm.hpp"
#include "gpu/cuda/launch.cuh"

namespace convoy::cuda {

struct GemmArgs {
  Product products[products_max];
  int32_t ends[products_max];  // outputs of the products up to this one, each rounded up to whole blocks
  int32_t count;
  const void* in;
  int64_t in_pitch;
  RowRange rows;
  Visits visits;
};

__device__ __forceinline__ Tile tile_of(const GemmArgs& args, int index, int height) {
  if (args.visits.tiles) return index < *args.visits.tile_count ? args.visits.tiles[index] : Tile{0, 0, 0};
  const int first = index * height;
  return {0, first, min(min(height, args.rows.max - first), *args.rows.count - args.rows.first - first)};
}

/// The input row of a tile's row.
__device__ __forceinline__ int input_row(const GemmArgs& args, const Tile& tile, int row) {
  const int visit = tile.first + row;
  return args.visits.rows ? args.visits.rows[visit] : visit;
}

/// Turns an output's number among all products into one of its product's own; that product's index.
__device__ __forceinline__ int find_product(const GemmArgs& args, int& output) {
  int p = 0;
  while (p + 1 < args.count && output >= args.ends[p]) p++;
  if (p > 0) output -= args.ends[p - 1];
  return p;
}

__device__ __forceinline__ void put(const Product& product, float* to, float value) {
  *to = product.adds ? *to + value : value;
}

/// Eight activations.
__device__ __forceinline__ void load_eight(const float* from, float out[8]) {
  const float4 a = *reinterpret_cast<const float4*>(from), b = *reinterpret_cast<const float4*>(from + 4);
  out[0] = a.x, out[1] = a.y, out[2] = a.z, out[3] = a.w;
  out[4] = b.x, out[5] = b.y, out[6] = b.z, out[7] = b.w;
}
__device__ __forceinline__ void load_eight(const __nv_bfloat16* from, float out[8]) {
  widen_bf16(*reinterpret_cast<const uint4*>(from), out);
}

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int apart = 16; apart > 0; apart /= 2) value += __shfl_xor_sync(0xffffffffu, value, apart);
  return value;
}

__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
  for (int apart = 16; apart > 0; apart /= 2)
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, apart));
  return value;
}

__device__ __forceinline__ void store(float* to, float value) { *to = value; }
__device__ __forceinline__ void store(__nv_bfloat16* to, float value) { *to = __float2bfloat16_rn(value); }

/// silu(gate) · up
__device__ __forceinline__ __nv_bfloat16 gated_bf16(float gate, float up) {
  return __float2bfloat16_rn(gate / (1.0f + expf(-gate)) * up);
}
__device__ __forceinline__ uint2 gated_four(const float4& gate, const float4& up) {
  const __nv_bfloat162 low{gated_bf16(gate.x, up.x), gated_bf16(gate.y, up.y)},
      high{gated_bf16(gate.z, up.z), gated_bf16(gate.w, up.w)};
  return {*reinterpret_cast<const uint32_t*>(&low), *reinterpret_cast<const uint32_t*>(&high)};
}

}  // namespace convoy::cuda
