// Products for each head (gemm.hpp) whose weights and activations are bf16: on tensor cores. A block keeps
// its part of a head's matrix in registers while rows pass by, eight at a time.

#include <algorithm>

#include "gpu/cuda/elementwise.cuh"
#include "gpu/cuda/gemm_heads_stream.hpp"
#include "gpu/cuda/mma.cuh"

namespace convoy::cuda {
namespace {

constexpr int warps = 4, threads = warps * 32;
constexpr int eight = 8;            // rows at once
constexpr int block_rows_max = 64;  // of a block, if there are many

__device__ __forceinline__ uint4 load_as_bf16(const float* from) {
  const float4 a = *reinterpret_cast<const float4*>(from), b = *reinterpret_cast<const float4*>(from + 4);
  return {two_bf16(a.x, a.y), two_bf16(a.z, a.w), two_bf16(b.x, b.y), two_bf16(b.z, b.w)};
}

/// out[o] = Σ weight[o][c] · in[c]: a block 16 outputs of a head, a warp a quarter of the columns.
template <int Chunks, class Out>
__global__ void __launch_bounds__(threads) head_rows(const HeadProduct p) {
  __shared__ float4 parts[2][warps][32];
  let_next_begin();
  const int head = static_cast<int>(blockIdx.x), first_output = static_cast<int>(blockIdx.z) * 16;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int group = lane / 4, quarter = lane % 4;
  const int column = warp * Chunks * 32 + quarter * chunk_values;
  uint4 low[Chunks], high[Chunks];
  const std::byte* const from = p.weight.data +
                                (head * p.row_stride + p.row_first + first_output + group) * p.weight.pitch +
                                column * 2;
#pragma unroll
  for (int i = 0; i < Chunks; i++) {
    low[i] = read<uint4>(from + i * 64);
    high[i] = read<uint4>(from + 8 * p.weight.pitch + i * 64);
  }
  wait_for_previous();
  const int rows = min(p.rows.max, *p.rows.count - p.rows.first);
  const int begin = static_cast<int>(blockIdx.y) * block_rows_max, end = min(begin + block_rows_max, rows);
  for (int row = begin, half = 0; row < end; row += eight, half ^= 1) {
    const float* const in = p.in + min(row + group, end - 1) * p.in_pitch + head * p.in_head + column;
    float sums[4] = {};
#pragma unroll
    for (int i = 0; i < Chunks; i++) {
      const uint4 x = load_as_bf16(in + i * 32);
      mma(sums, {low[i].x, high[i].x, low[i].y, high[i].y}, x.x, x.y);
      mma(sums, {low[i].z, high[i].z, low[i].w, high[i].w}, x.z, x.w);
    }
    parts[half][warp][lane] = {sums[0], sums[1], sums[2], sums[3]};
    __syncthreads();  // the other half is read until everybody is here again
    const int of_lane = thread / 4, element = thread % 4;
    float sum = 0;
#pragma unroll
    for (int w = 0; w < warps; w++) sum += reinterpret_cast<const float*>(&parts[half][w][of_lane])[element];
    const int output = first_output + of_lane / 4 + element / 2 * 8,
              own = row + of_lane % 4 * 2 + element % 2;
    if (own < end) store(static_cast<Out*>(p.out) + own * p.out_pitch + head * p.out_head + output, sum);
  }
}

static_assert(latent_rope_max <= threads);  // a rotated value each
constexpr int transposed_rows_max = 128, transposed_columns = warps * 16;

/// out[c] = Σ weight[i][c] · in[i]: a block 64 columns of a head, a warp sixteen. Writes: blocks behind the
/// last head's write the cache's entries, a warp a row, and heads' blocks share out the rows whose queries
/// they turn.
template <bool Writes>
__global__ void __launch_bounds__(threads)
    head_columns(const HeadProduct p, const LatentWrite write, const RowTables tables) {
  constexpr int pitch = transposed_columns + 8, steps_max = transposed_rows_max / 16;
  __shared__ __align__(16) __nv_bfloat16 weights[transposed_rows_max][pitch];
  let_next_begin();
  const int head = static_cast<int>(blockIdx.x),
            first_column = static_cast<int>(blockIdx.z) * transposed_columns;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int group = lane / 4, quarter = lane % 4;
  const int begin = static_cast<int>(blockIdx.y) * block_rows_max, blocks = static_cast<int>(gridDim.z);
  if (Writes && head == p.heads) {
    const int first = begin + static_cast<int>(blockIdx.z) * warps + warp;
    if (!has_row(p.rows, first)) return wait_for_previous();
    for (int row = first; row < begin + block_rows_max && has_row(p.rows, row); row += blocks * warps) {
      const EntryWrite entry(write, tables, row);
      if (row == first) wait_for_previous();
      entry();
    }
    return;
  }
  for (int i = thread; i < p.rows_of_head * (transposed_columns / 8); i += threads) {
    const int row = i / (transposed_columns / 8), column = i % (transposed_columns / 8) * 8;
    copy_async(&weights[row][column], p.weight.data +
                                          (head * p.row_stride + p.row_first + row) * p.weight.pitch +
                                          (first_column + column) * 2);
  }
  end_copies();
  wait_for_copies<0>();
  __syncthreads();
  const int steps = p.rows_of_head / 16;
  uint32_t a[steps_max][4];  // row, row + 8, and the same eight columns further: of the transposed matrix
#pragma unroll
  for (int s = 0; s < steps_max; s++)
    if (s < steps)
      load_transposed(a[s], &weights[s * 16 + lane / 16 * 8 + lane % 8][warp * 16 + lane / 8 % 2 * 8]);
  const int end = min(begin + block_rows_max, min(p.rows.max, __ldcg(p.rows.count) - p.rows.first));
  const int first_turned = begin + static_cast<int>(blockIdx.z);
  const auto turn = [&](int row) { return Turn(write.rotations, thread, tables.early_position(row)); };
  Turn next;
  if (Writes && thread < write.rope && first_turned < end) next = turn(first_turned);
  wait_for_previous();
  if (Writes && thread < write.rope)
    for (int row = first_turned; row < end; row += blocks) {
      turn_latent_query(write, row, head, thread, next);
      if (row + blocks < end) next = turn(row + blocks);
    }
  for (int row = begin; row < end; row += eight) {
    const float* const in = p.in + min(row + group, end - 1) * p.in_pitch + head * p.in_head + quarter * 2;
    float sums[4] = {};
#pragma unroll
    for (int s = 0; s < steps_max; s++)
      if (s < steps) {
        const float2 x = *reinterpret_cast<const float2*>(in + s * 16),
                     y = *reinterpret_cast<const float2*>(in + s * 16 + 8);
        mma(sums, a[s], two_bf16(x.x, x.y), two_bf16(y.x, y.y));
      }
#pragma unroll
    for (int c = 0; c < 4; c++) {
      const int own = row + quarter * 2 + c % 2;
      if (own < end)
        static_cast<float*>(
            p.out)[own * p.out_pitch + head * p.out_head + first_column + warp * 16 + group + c / 2 * 8] =
            sums[c];
    }
  }
}

dim3 grid_for(const HeadProduct& p, int64_t outputs, int of_block, int more_heads = 0) {
  return {static_cast<unsigned>(p.heads + more_heads),
          static_cast<unsigned>((p.rows.max + block_rows_max - 1) / block_rows_max),
          static_cast<unsigned>(outputs / of_block)};
}

template <int Chunks>
void launch_rows(const HeadProduct& p, cudaStream_t stream) {
  launch("a head product",
         p.out_type == Activations::bf16 ? head_rows<Chunks, __nv_bfloat16> : head_rows<Chunks, float>,
         grid_for(p, p.rows_of_head, 16), threads, 0, stream, p);
}

bool takes(const HeadProduct& p, bool transposed) {
  if (p.weight.type != DType::bf16 || p.rows_of_head % 16 != 0) return false;
  if (transposed) return p.rows_of_head <= transposed_rows_max && p.weight.columns % transposed_columns == 0;
  return p.in_pitch % 4 == 0 && p.in_head % 4 == 0 && (p.weight.columns == 128 || p.weight.columns == 512);
}

}  // namespace

bool stream_heads(const HeadProduct& p, bool transposed, cudaStream_t stream) {
  if (!takes(p, transposed)) return false;
  if (transposed)
    launch("a head product", head_columns<false>, grid_for(p, p.weight.columns, transposed_columns), threads,
           0, stream, p, LatentWrite{}, RowTables{});
  else
    p.weight.columns == 128 ? launch_rows<1>(p, stream) : launch_rows<4>(p, stream);
  return true;
}

bool stream_heads_and_write(const HeadProduct& p, const LatentWrite& write, const RowTables& tables,
                            cudaStream_t stream) {
  if (!p.rounds || !takes(p, true)) return false;
  launch("a head product", head_columns<true>, grid_for(p, p.weight.columns, transposed_columns, 1), threads,
         0, stream, p, write, tables);
  return true;
}

}  // namespace convoy::cuda
