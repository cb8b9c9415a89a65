#include "gpu/cuda/elementwise.cuh"
#include "gpu/cuda/mma.cuh"

namespace convoy::cuda {
namespace {

constexpr int threads = 256, warps = threads / 32;

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

/// Four at a time, and the last few one by one. 6 bytes a value.
template <class From, class To>
__global__ void __launch_bounds__(threads) convert(const From* from, To* to, int64_t values) {
  follow_previous();
  const int64_t begin = (int64_t{blockIdx.x} * threads + threadIdx.x) * 4;
  for (int64_t i = begin; i < begin + 4 && i < values; i++) store(to + i, static_cast<float>(from[i]));
}

template <class From, class To>
void launch_convert(const From* from, To* to, int64_t values, cudaStream_t stream) {
  launch("convert", convert<From, To>, grid_of((values + threads * 4 - 1) / (threads * 4)), threads, 0,
         stream, from, to, values);
}

template <class Out>
__global__ void __launch_bounds__(threads) norm_rows(const Norm n) {
  follow_previous();
  const int row = static_cast<int>(blockIdx.x);
  if (!has_row(n.rows, row)) return;
  const float* const in = n.in + (n.chosen ? n.chosen[n.rows.first + row] : row) * n.pitch;
  float squares = 0;
  for (int i = static_cast<int>(threadIdx.x); i < n.width; i += threads)
    squares = fmaf(in[i], in[i], squares);
  const float scale = 1.0f / sqrtf(block_sum(squares) / static_cast<float>(n.width) + n.eps);
  Out* const out = static_cast<Out*>(n.out.data) + row * n.out.pitch;
  for (int i = static_cast<int>(threadIdx.x); i < n.width; i += threads)
    store(out + i, in[i] * scale * n.weight[i]);
}

__device__ __forceinline__ void store_four(float* to, const float4& v) { *reinterpret_cast<float4*>(to) = v; }
__device__ __forceinline__ void store_four(__nv_bfloat16* to, const float4& v) {
  *reinterpret_cast<uint2*>(to) = {two_bf16(v.x, v.y), two_bf16(v.z, v.w)};
}

/// The same for rows of whole fours that fit into a block's registers: every load is on its way before the
/// first is looked at, the weights' even before the kernel in front has ended.
template <class Out, int Fours>
__global__ void __launch_bounds__(threads) norm_short_rows(const Norm n) {
  let_next_begin();
  const int thread = static_cast<int>(threadIdx.x), fours = n.width / 4;
  float4 weights[Fours];
#pragma unroll
  for (int i = 0; i < Fours; i++) {
    const int four = thread + i * threads;
    weights[i] = four < fours ? reinterpret_cast<const float4*>(n.weight)[four] : float4{};
  }
  wait_for_previous();
  const int row = static_cast<int>(blockIdx.x);
  if (!has_row(n.rows, row)) return;
  const auto* const in =
      reinterpret_cast<const float4*>(n.in + (n.chosen ? n.chosen[n.rows.first + row] : row) * n.pitch);
  float4 values[Fours];
#pragma unroll
  for (int i = 0; i < Fours; i++) {
    const int four = thread + i * threads;
    values[i] = four < fours ? in[four] : float4{};
  }
  float squares = 0;
#pragma unroll
  for (int i = 0; i < Fours; i++) {
    const float4& v = values[i];
    squares = fmaf(v.x, v.x, fmaf(v.y, v.y, fmaf(v.z, v.z, fmaf(v.w, v.w, squares))));
  }
  const float scale = 1.0f / sqrtf(block_sum(squares) / static_cast<float>(n.width) + n.eps);
  Out* const out = static_cast<Out*>(n.out.data) + row * n.out.pitch;
#pragma unroll
  for (int i = 0; i < Fours; i++) {
    const int four = thread + i * threads;
    if (four >= fours) continue;
    const float4 &v = values[i], &w = weights[i];
    store_four(out + four * 4, {v.x * scale * w.x, v.y * scale * w.y, v.z * scale * w.z, v.w * scale * w.w});
  }
}

template <int Fours>
void launch_short_norm(const Norm& norm, cudaStream_t stream) {
  launch("normalise",
         norm.out.type == Activations::bf16 ? norm_short_rows<__nv_bfloat16, Fours>
                                            : norm_short_rows<float, Fours>,
         grid_of(norm.rows.max), threads, 0, stream, norm);
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
  for (int h = static_cast<int>(blockIdx.y) * warps + warp; h < w.heads + 2 * w.kv_heads;
       h += static_cast<int>(gridDim.y) * warps) {
    const bool is_q = h < w.heads, is_v = h >= w.heads + w.kv_heads;
    const int own = is_q ? h : is_v ? h - w.heads - w.kv_heads : h - w.heads;
    if (is_v) {
      for (int i = lane; i < d; i += 32)
        store_cached(w.values, value_at + own * d + i, w.v[row * w.kv_pitch + own * d + i]);
      continue;
    }
    const float* const from = is_q ? w.q + row * w.q_pitch + own * d : w.k + row * w.kv_pitch + own * d;
    turn_head(from, d, is_q ? w.q_norm : w.k_norm, w.eps, w.rotations, position, head,
              [&](int i, float value) {
                if (is_q)
                  w.q[row * w.q_pitch + own * d + i] = value;
                else
                  store_cached(w.keys, key_at + own * d + i, value);
              });
  }
}

__global__ void __launch_bounds__(threads) latent_write(const LatentWrite w, const RowTables tables) {
  follow_previous();
  const int row = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
  if (!has_row(w.rows, row)) return;
  if (thread < 32) EntryWrite(w, tables, row)();
  for (int i = thread; i < w.heads * w.rope; i += threads)
    *turned_latent_query_at(w, row, i / w.rope, i % w.rope) = turned_latent_query(
        w, row, i / w.rope, i % w.rope, Turn(w.rotations, i % w.rope, tables.position[row]));
}

}  // namespace

void embed(const Matrix& table, const RowTables& tables, const RowRange& rows, float* x, int64_t pitch,
           cudaStream_t stream) {
  launch("embed", embed_rows, grid_of(rows.max), threads, 0, stream, table, tables, rows, x, pitch);
}

void narrow(const float* from, void* to, int64_t values, cudaStream_t stream) {
  launch_convert(from, static_cast<__nv_bfloat16*>(to), values, stream);
}
void widen(const void* from, float* to, int64_t values, cudaStream_t stream) {
  launch_convert(static_cast<const __nv_bfloat16*>(from), to, values, stream);
}

void normalise(const Norm& norm, cudaStream_t stream) {
  const bool fours = norm.width % 4 == 0 && norm.pitch % 4 == 0;
  if (fours && norm.width <= 2 * 4 * threads) return launch_short_norm<2>(norm, stream);
  if (fours && norm.width <= 4 * 4 * threads) return launch_short_norm<4>(norm, stream);
  if (fours && norm.width <= 8 * 4 * threads) return launch_short_norm<8>(norm, stream);
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
  launch("write_grouped", grouped_write,
         dim3(grid_of(write.rows.max), grid_of((write.heads + 2 * write.kv_heads + warps - 1) / warps)),
         threads, shared, stream, write, tables);
}

void write_latent(const LatentWrite& write, const RowTables& tables, cudaStream_t stream) {
  launch("write_latent", latent_write, grid_of(write.rows.max), threads, 0, stream, write, tables);
}

}  // namespace convoy::cuda
