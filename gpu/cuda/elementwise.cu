#include "gpu/cuda/elementwise.cuh"

namespace convoy::cuda {
namespace {

constexpr int threads = 256, warps = threads / 32;

__device__ void decode_any(const Matrix& m, int row, int column, float out[8]) {
  switch (m.type) {
    case DType::f32:
      return Decoder<DType::f32>::eight(m, row, column, out);
    case DType::f16:
      return Decoder<DType::f16>::eight(m, row, column, out);
    case DType::bf16:
      return Decoder<DType::bf16>::eight(m, row, column, out);
    case DType::f8_e4m3:
      return Decoder<DType::f8_e4m3>::eight(m, row, column, out);
    case DType::i8:
      return Decoder<DType::i8>::eight(m, row, column, out);
    case DType::q8_0:
      return Decoder<DType::q8_0>::eight(m, row, column, out);
    case DType::q4_0:
      return Decoder<DType::q4_0>::eight(m, row, column, out);
    case DType::q4_1:
      return Decoder<DType::q4_1>::eight(m, row, column, out);
    case DType::iq4_nl:
      return Decoder<DType::iq4_nl>::eight(m, row, column, out);
    case DType::q4_k:
      return Decoder<DType::q4_k>::eight(m, row, column, out);
    case DType::q5_k:
      return Decoder<DType::q5_k>::eight(m, row, column, out);
    case DType::q6_k:
      return Decoder<DType::q6_k>::eight(m, row, column, out);
    case DType::i64:
      break;  // refused when it was loaded
  }
}

__global__ void __launch_bounds__(threads)
    embed_rows(const Matrix table, const RowTables tables, const RowRange rows, float* x, int64_t pitch) {
  follow_previous();
  const int row = static_cast<int>(blockIdx.x);
  if (!has_row(rows, row)) return;
  const int id = tables.id[row];
  for (int c = static_cast<int>(threadIdx.x) * chunk_values; c < table.columns; c += threads * chunk_values) {
    float values[chunk_values];
    decode_any(table, id, c, values);
    for (int i = 0; i < chunk_values && c + i < table.columns; i++) x[row * pitch + c + i] = values[i];
  }
}

template <class Out>
__global__ void __launch_bounds__(threads) norm_rows(const Norm n) {
  follow_previous();
  const int row = static_cast<int>(blockIdx.x);
  if (!has_row(n.rows, row)) return;
  const int64_t at = (n.chosen ? n.chosen[n.rows.first + row] : row) * n.pitch;
  const bool keeps = n.delta && !n.chosen;
  const auto value = [&](int i) { return n.delta ? n.in[at + i] + n.delta[at + i] : n.in[at + i]; };
  float squares = 0;
  for (int i = static_cast<int>(threadIdx.x); i < n.width; i += threads) {
    const float v = value(i);
    squares = fmaf(v, v, squares);
    if (keeps) n.in[at + i] = v;
  }
  if (!n.out.data) return;
  const float scale = 1.0f / sqrtf(block_sum(squares) / static_cast<float>(n.width) + n.eps);
  Out* const out = static_cast<Out*>(n.out.data) + row * n.out.pitch;
  for (int i = static_cast<int>(threadIdx.x); i < n.width; i += threads)
    store(out + i, (keeps ? n.in[at + i] : value(i)) * scale * n.weight[i]);
}

template <class Out>
__global__ void __launch_bounds__(threads)
    gate(const float* gate, const float* up, int64_t pitch, int32_t width, const RowRange rows, Out* out,
         int64_t out_pitch) {
  follow_previous();
  const int row = static_cast<int>(blockIdx.y),
            i = static_cast<int>(blockIdx.x) * threads + static_cast<int>(threadIdx.x);
  if (i >= padded(width)) return;
  for (int r = row; has_row(rows, r); r += static_cast<int>(gridDim.y)) {
    const float g = i < width ? gate[r * pitch + i] : 0.0f;
    store(out + r * out_pitch + i, i < width ? g / (1.0f + expf(-g)) * up[r * pitch + i] : 0.0f);
  }
}

/// A warp a head: those of q, then of k, then of v.
__global__ void __launch_bounds__(threads) grouped_write(const GroupedWrite w, const RowTables tables) {
  extern __shared__ float shared[];  // [warps, head_dim]
  follow_previous();
  const int row = static_cast<int>(blockIdx.x);
  if (!has_row(w.rows, row)) return;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32,
            d = w.head_dim;
  const int position = tables.position[row];
  const uint32_t* const table = tables.table_of(row);
  const int64_t key_at = cache_index(table, position, w.keys.width),
                value_at = cache_index(table, position, w.values.width);
  float* const head = shared + warp * d;
  for (int h = warp; h < w.heads + 2 * w.kv_heads; h += warps) {
    const bool is_q = h < w.heads, is_v = h >= w.heads + w.kv_heads;
    const int own = is_q ? h : is_v ? h - w.heads - w.kv_heads : h - w.heads;
    if (is_v) {
      for (int i = lane; i < d; i += 32)
        store_cached(w.values, value_at + own * d + i, w.v[row * w.kv_pitch + own * d + i]);
      continue;
    }
    const float* const from = is_q ? w.q + row * w.q_pitch + own * d : w.k + row * w.kv_pitch + own * d;
    const float* const norm = is_q ? w.q_norm : w.k_norm;
    float squares = 0;
    for (int i = lane; i < d; i += 32) squares = fmaf(from[i], from[i], squares);
    const float scale = norm ? 1.0f / sqrtf(warp_sum(squares) / static_cast<float>(d) + w.eps) : 1.0f;
    for (int i = lane; i < d; i += 32) head[i] = norm ? from[i] * scale * norm[i] : from[i];
    __syncwarp();
    for (int i = lane; i < d; i += 32) {
      const float value = turned(w.rotations, head, i, position);
      if (is_q)
        w.q[row * w.q_pitch + own * d + i] = value;
      else
        store_cached(w.keys, key_at + own * d + i, value);
    }
    __syncwarp();
  }
}

__global__ void __launch_bounds__(threads) latent_write(const LatentWrite w, const RowTables tables) {
  follow_previous();
  const int row = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
  if (!has_row(w.rows, row)) return;
  const int position = tables.position[row], cached = w.latent + w.rope;
  const float* const q = w.q + row * w.q_pitch;
  for (int i = thread; i < w.heads * w.rope; i += threads) {
    const int head = i / w.rope, at = i % w.rope;
    w.absorbed[row * w.absorbed_pitch + head * cached + w.latent + at] =
        turned(w.rotations, q + head * (w.nope + w.rope) + w.nope, at, position);
  }
  const float* const entry = w.kv_a + row * w.kv_pitch;
  float squares = 0;
  for (int i = thread; i < w.latent; i += threads) squares = fmaf(entry[i], entry[i], squares);
  const float scale = 1.0f / sqrtf(block_sum(squares) / static_cast<float>(w.latent) + w.eps);
  const int64_t to = cache_index(tables.table_of(row), position, w.entries.width);
  for (int i = thread; i < cached; i += threads)
    store_cached(w.entries, to + i,
                 i < w.latent ? entry[i] * scale * w.norm[i]
                              : turned(w.rotations, entry + w.latent, i - w.latent, position));
}

}  // namespace

void embed(const Matrix& table, const RowTables& tables, const RowRange& rows, float* x, int64_t pitch,
           cudaStream_t stream) {
  launch("embed", embed_rows, grid_of(rows.max), threads, 0, stream, table, tables, rows, x, pitch);
}

void normalise(const Norm& norm, cudaStream_t stream) {
  launch("normalise", norm.out.type == Activations::bf16 ? norm_rows<__nv_bfloat16> : norm_rows<float>,
         grid_of(norm.rows.max), threads, 0, stream, norm);
}

void gate_rows(const float* gates, const float* up, int64_t pitch, int32_t width, const RowRange& rows,
               Rows out, cudaStream_t stream) {
  constexpr int rows_of_grid = 4096;
  const dim3 grid(grid_of((padded(width) + threads - 1) / threads),
                  grid_of(rows.max < rows_of_grid ? rows.max : rows_of_grid));
  if (out.type == Activations::bf16)
    launch("gate_rows", gate<__nv_bfloat16>, grid, threads, 0, stream, gates, up, pitch, width, rows,
           static_cast<__nv_bfloat16*>(out.data), out.pitch);
  else
    launch("gate_rows", gate<float>, grid, threads, 0, stream, gates, up, pitch, width, rows,
           static_cast<float*>(out.data), out.pitch);
}

void write_grouped(const GroupedWrite& write, const RowTables& tables, cudaStream_t stream) {
  const size_t shared = static_cast<size_t>(warps * write.head_dim) * sizeof(float);
  launch("write_grouped", grouped_write, grid_of(write.rows.max), threads, shared, stream, write, tables);
}

void write_latent(const LatentWrite& write, const RowTables& tables, cudaStream_t stream) {
  launch("write_latent", latent_write, grid_of(write.rows.max), threads, 0, stream, write, tables);
}

}  // namespace convoy::cuda
