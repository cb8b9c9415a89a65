#pragma once
// What kernels over rows share.

#include "gpu/cuda/attention.hpp"
#include "gpu/cuda/gemm_args.cuh"
#include "gpu/kv_block.hpp"

namespace convoy::cuda {

/// Whether row `row` of a launch is there. The step's header is older than its first kernel: early, as
/// RowTables' functions are.
__device__ __forceinline__ bool has_row(const RowRange& rows, int row) {
  return row < rows.max && row < __ldcg(rows.count) - rows.first;
}

/// The sum over a block of at most 1024 threads, in one order; every thread gets it.
__device__ __forceinline__ float block_sum(float value) {
  __shared__ float sums[32];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  value = warp_sum(value);
  __syncthreads();  // the last call's sums were read
  if (lane == 0) sums[warp] = value;
  __syncthreads();
  return warp_sum(lane < static_cast<int>(blockDim.x) / 32 ? sums[lane] : 0.0f);
}

/// Where a position's values begin in a stream of the cache.
__device__ __forceinline__ int64_t cache_index(const uint32_t* table, int position, int width) {
  constexpr int tokens = static_cast<int>(gpu::kv_block_tokens);
  return (int64_t{table[position / tokens]} * tokens + position % tokens) * width;
}

/// The same before the kernel has waited.
__device__ __forceinline__ int64_t early_cache_index(const uint32_t* table, int position, int width) {
  constexpr int tokens = static_cast<int>(gpu::kv_block_tokens);
  return (int64_t{__ldcg(table + position / tokens)} * tokens + position % tokens) * width;
}

__device__ __forceinline__ void store_cached(const CacheStream& cache, int64_t index, float value) {
  if (cache.type == DType::f32)
    static_cast<float*>(cache.data)[index] = value;
  else if (cache.type == DType::bf16)
    static_cast<__nv_bfloat16*>(cache.data)[index] = __float2bfloat16_rn(value);
  else if (cache.type == DType::f8_e4m3)  // to nearest even, ±448 at most, as the CPU's
    static_cast<__nv_fp8_storage_t*>(cache.data)[index] =
        __nv_cvt_float_to_fp8(value, __NV_SATFINITE, __NV_E4M3);
  else
    static_cast<__half*>(cache.data)[index] = __float2half_rn(value);
}

/// How value `i` of a head at a position is turned.
struct Turn {
  int other = 0;               // which value it is turned with
  float cosine = 1, sine = 0;  // value · cosine + other · sine
  Turn() = default;
  __device__ Turn(const RotationView& r, int i, int position) : other(i) {
    if (i >= 2 * r.half) return;
    const int pair = r.interleaved ? i / 2 : i % r.half;
    const bool second = r.interleaved ? i % 2 : i >= r.half;
    const int apart = r.interleaved ? 1 : r.half;
    other = second ? i - apart : i + apart;
    cosine = r.cosines[int64_t{position} * r.half + pair];
    sine = r.sines[int64_t{position} * r.half + pair] * (second ? 1.0f : -1.0f);
  }
  __device__ float operator()(const float* head, int i) const {
    return head[i] * cosine + head[other] * sine;
  }
};
/// Value `i` of a head after it was turned; `head` is not changed.
__device__ __forceinline__ float turned(const RotationView& r, const float* head, int i, int position) {
  return Turn(r, i, position)(head, i);
}

/// A warp's: store(i, value) of each of a head's values, normalised by `norm`, if there is one, and turned.
/// `scratch` has room for the head and is the warp's own.
template <class Store>
__device__ __forceinline__ void turn_head(const float* from, int width, const float* norm, float eps,
                                          const RotationView& rotations, int position, float* scratch,
                                          const Store& store) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float squares = 0;
  for (int i = lane; i < width; i += 32) squares = fmaf(from[i], from[i], squares);
  const float scale = norm ? 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(width) + eps) : 1.0f;
  for (int i = lane; i < width; i += 32) scratch[i] = norm ? from[i] * scale * norm[i] : from[i];
  __syncwarp();
  for (int i = lane; i < width; i += 32) store(i, turned(rotations, scratch, i, position));
  __syncwarp();
}

/// A warp's: normalises a row's latent, turns its key, and writes both into the cache. What does not depend
/// on the kernel before is read by the constructor.
class EntryWrite {
 public:
  __device__ EntryWrite(const LatentWrite& w, const RowTables& tables, int row) : w_(w), row_(row) {
    const int position = tables.early_position(row);
    to_ = early_cache_index(tables.early_table(row), position, w.entries.width);
#pragma unroll
    for (int i = 0; i < own; i++) norm_[i] = lane_ + 32 * i < w.latent ? w.norm[lane_ + 32 * i] : 0.0f;
#pragma unroll
    for (int i = 0; i < own_turned; i++)
      if (lane_ + 32 * i < w.rope) turns_[i] = Turn(w.rotations, lane_ + 32 * i, position);
  }
  __device__ void operator()() const {
    const float* const entry = w_.kv_a + row_ * w_.kv_pitch;
    float values[own], squares = 0;
#pragma unroll
    for (int i = 0; i < own; i++) values[i] = lane_ + 32 * i < w_.latent ? entry[lane_ + 32 * i] : 0.0f;
#pragma unroll
    for (int i = 0; i < own_turned; i++)
      if (lane_ + 32 * i < w_.rope)
        store_cached(w_.entries, to_ + w_.latent + lane_ + 32 * i,
                     turns_[i](entry + w_.latent, lane_ + 32 * i));
#pragma unroll
    for (int i = 0; i < own; i++) squares = fmaf(values[i], values[i], squares);
    const float scale = 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(w_.latent) + w_.eps);
#pragma unroll
    for (int i = 0; i < own; i++)
      if (lane_ + 32 * i < w_.latent)
        store_cached(w_.entries, to_ + lane_ + 32 * i, values[i] * scale * norm_[i]);
  }

 private:
  static constexpr int own = latent_max / 32, own_turned = latent_rope_max / 32;  // values of a thread
  const LatentWrite& w_;
  int row_, lane_ = static_cast<int>(threadIdx.x) % 32;
  int64_t to_;
  float norm_[own];
  Turn turns_[own_turned];
};

/// Value `i` of the rotated ones of a head's query, turned; and where it is compared.
__device__ __forceinline__ float turned_latent_query(const LatentWrite& w, int row, int head, int i,
                                                     const Turn& turn) {
  return turn(w.q + row * w.q_pitch + head * (w.nope + w.rope) + w.nope, i);
}
__device__ __forceinline__ float* turned_latent_query_at(const LatentWrite& w, int row, int head, int i) {
  return w.absorbed + row * w.absorbed_pitch + head * (w.latent + w.rope) + w.latent + i;
}

inline unsigned grid_of(int count) { return static_cast<unsigned>(count < 1 ? 1 : count); }

}  // namespace convoy::cuda
