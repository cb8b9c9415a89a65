#pragma once
// What happens to rows of activations between products: embedding, norms, SiLU, rotation and the writing of
// the cache.

#include "gpu/cuda/gemm.hpp"
#include "gpu/cuda/row_tables.hpp"

namespace convoy::cuda {

/// x[r] = table[id of row r], in float32 [rows, pitch].
void embed(const Matrix& table, const RowTables& tables, const RowRange& rows, float* x, int64_t pitch,
           cudaStream_t stream);

/// Hidden states between float32 and bf16.
void narrow(const float* from, void* to, int64_t values, cudaStream_t stream);
void widen(const void* from, float* to, int64_t values, cudaStream_t stream);

void normalise(const Norm& norm, cudaStream_t stream);

/// out = silu(gate) ⊙ up, and zeros up to whole chunks; gate, up: [rows, pitch]
void gate_rows(const float* gate, const float* up, int64_t pitch, int32_t width, const RowRange& rows,
               Rows out, cudaStream_t stream);

/// The rotations of all positions on the device.
struct RotationView {
  const float *cosines = nullptr, *sines = nullptr;  // [positions, half]
  int32_t half = 0;
  bool interleaved = false;
};

/// One stream of a layer's cache: token after token, `width` values each.
struct CacheStream {
  void* data = nullptr;
  DType type = DType::f32;
  int32_t width = 0;
};

/// Normalises each head of q and k (if there are weights), rotates both, and writes keys and values.
struct GroupedWrite {
  float *q = nullptr, *k = nullptr;
  const float* v = nullptr;
  int64_t q_pitch = 0, kv_pitch = 0;
  int32_t heads = 0, kv_heads = 0, head_dim = 0;
  const float *q_norm = nullptr, *k_norm = nullptr;
  float eps = 0;
  RotationView rotations;
  CacheStream keys, values;
  RowRange rows;
};
void write_grouped(const GroupedWrite& write, const RowTables& tables, cudaStream_t stream);

/// Rotates the last `rope` values of each head of q into `absorbed` [rows, heads, latent + rope]; normalises
/// the latent, rotates its key, and writes both into the cache.
struct LatentWrite {
  const float* q = nullptr;     // [rows, heads, nope + rope]
  const float* kv_a = nullptr;  // [rows, latent + rope]
  float* absorbed = nullptr;
  int64_t q_pitch = 0, kv_pitch = 0, absorbed_pitch = 0;
  int32_t heads = 0, latent = 0, nope = 0, rope = 0;
  const float* norm = nullptr;
  float eps = 0;
  RotationView rotations;
  CacheStream entries;
  RowRange rows;
};
void write_latent(const LatentWrite& write, const RowTables& tables, cudaStream_t stream);

}  // namespace convoy::cuda
