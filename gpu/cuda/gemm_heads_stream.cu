// Products for each head (gemm.hpp) whose activations are bf16: on tensor cores. A block keeps its part of a
// head's matrix in registers while rows pass by, eight at a time; weights of other types than bf16 are
// rounded to it as they are read.

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
__device__ __forceinline__ uint4 load_as_bf16(const __nv_bfloat16* from) {
  return *reinterpret_cast<const uint4*>(from);
}

__device__ __forceinline__ uint4 rounded_eight(const Matrix& weight, int row, int column) {
  float values[chunk_values];
  decode_any(weight, row, column, values);
  return packed_bf16(values);
}

/// out[o] = Σ weight[o][c] · in[c]: a block 16 outputs of a head, a warp a quarter of the columns. Rounds:
/// the weight is of any type.
template <int Chunks, class Value, bool Rounds>
__global__ void __launch_bounds__(threads) head_rows(const HeadProduct p) {
  __shared__ float4 parts[2][warps][32];
  let_next_begin();
  const int head = static_cast<int>(blockIdx.x), first_output = static_cast<int>(blockIdx.z) * 16;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int group = lane / 4, quarter = lane % 4;
  const int column = warp * Chunks * 32 + quarter * chunk_values;
  uint4 low[Chunks], high[Chunks];
  const int own_row = head * p.row_stride + p.row_first + first_output + group;
  const auto weights = [&](int row, int i) {
    const int at = column + i * 32;
    return Rounds ? rounded_eight(p.weight, row, at)
                  : read<uint4>(p.weight.data + row * p.weight.pitch + at * 2);
  };
#pragma unroll
  for (int i = 0; i < Chunks; i++) low[i] = weights(own_row, i), high[i] = weights(own_row + 8, i);
  wait_for_previous();
  const int rows = min(p.rows.max, *p.rows.count - p.rows.first);
  const int begin = static_cast<int>(blockIdx.y) * block_rows_max, end = min(begin + block_rows_max, rows);
  uint4 next[Chunks];  // of the eight rows that come next
  const auto fetch = [&](int row) {
    const auto* const in =
        static_cast<const Value*>(p.in) + min(row + group, end - 1) * p.in_pitch + head * p.in_head + column;
#pragma unroll
    for (int i = 0; i < Chunks; i++) next[i] = load_as_bf16(in + i * 32);
  };
  if (begin < end) fetch(begin);
  for (int row = begin, half = 0; row < end; row += eight, half ^= 1) {
    uint4 x[Chunks];
#pragma unroll
    for (int i = 0; i < Chunks; i++) x[i] = next[i];
    if (row + eight < end) fetch(row + eight);
    float sums[4] = {};
#pragma unroll
    for (int i = 0; i < Chunks; i++) {
      mma(sums, {low[i].x, high[i].x, low[i].y, high[i].y}, x[i].x, x[i].y);
      mma(sums, {low[i].z, high[i].z, low[i].w, high[i].w}, x[i].z, x[i].w);
    }
    parts[half][warp][lane] = {sums[0], sums[1], sums[2], sums[3]};
    __syncthreads();  // the other half is read until everybody is here again
    const int of_lane = thread / 4, element = thread % 4;
    float sum = 0;
#pragma unroll
    for (int w = 0; w < warps; w++) sum += reinterpret_cast<const float*>(&parts[half][w][of_lane])[element];
    const int output = first_output + of_lane / 4 + element / 2 * 8,
              own = row + of_lane % 4 * 2 + element % 2;
    if (own < end) store(static_cast<Value*>(p.out) + own * p.out_pitch + head * p.out_head + output, sum);
  }
}

constexpr int transposed_rows_max = 128, transposed_columns = warps * 16;
constexpr int turns_at_once = 4;  // of a thread: those of 64 rows, where eight blocks share them out

/// out[c] = Σ weight[i][c] · in[i], in float32: a block 64 columns of a head, a warp sixteen. Writes: blocks
/// behind the last head's write the cache's entries, a warp a row, and heads' blocks share out the rows whose
/// queries they turn.
template <bool Writes, bool Rounds>
__global__ void __launch_bounds__(threads, 5)
    head_columns(const HeadProduct p, const LatentWrite write, const RowTables tables) {
  constexpr int pitch = transposed_columns + 8, steps_max = transposed_rows_max / 16;
  constexpr int stages = 3, row_pitch = transposed_rows_max + 8;  // floats: eight rows lie in different banks
  __shared__ __align__(16) __nv_bfloat16 weights[transposed_rows_max][pitch];
  __shared__ __align__(16) float staged[stages][eight][row_pitch];
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
    const int own_row = head * p.row_stride + p.row_first + row, at = first_column + column;
    if constexpr (Rounds)
      *reinterpret_cast<uint4*>(&weights[row][column]) = rounded_eight(p.weight, own_row, at);
    else
      copy_async(&weights[row][column], p.weight.data + own_row * p.weight.pitch + at * 2);
  }
  end_copies();
  wait_for_copies<0>();
  __syncthreads();  // the weights are there
  const int end = min(begin + block_rows_max, min(p.rows.max, __ldcg(p.rows.count) - p.rows.first));
  // Eight rows into their place; a group of copies even if there are none.
  const auto fetch = [&](int first, int stage) {
    const int fours = p.rows_of_head / 4;
    if (first < end)
      for (int i = thread; i < eight * fours; i += threads)
        copy_async(&staged[stage][i / fours][i % fours * 4],
                   static_cast<const float*>(p.in) + min(first + i / fours, end - 1) * p.in_pitch +
                       head * p.in_head + i % fours * 4);
    end_copies();
  };
  // Rotated values of the block's rows: several of a thread, whose loads are under way together.
  const int first_turned = begin + static_cast<int>(blockIdx.z);
  const int turned =
      Writes && first_turned < end ? write.rope * ((end - first_turned + blocks - 1) / blocks) : 0;
  Turn turns[turns_at_once];
  const auto row_of = [&](int value) { return first_turned + value / write.rope * blocks; };
  const auto each_of = [&](int first, const auto& use) {
#pragma unroll
    for (int i = 0; i < turns_at_once; i++)
      if (const int value = first + i * threads; value < turned) use(i, row_of(value), value % write.rope);
  };
  const auto prepare = [&](int first) {
    each_of(first, [&](int i, int row, int value) {
      turns[i] = Turn(write.rotations, value, tables.early_position(row));
    });
  };
  prepare(thread);
  wait_for_previous();
  for (int i = 0; i < stages - 1; i++) fetch(begin + i * eight, i);
  for (int first = thread; first < turned; first += threads * turns_at_once) {
    if (first > thread) prepare(first);
    float values[turns_at_once];
    each_of(first, [&](int i, int row, int value) {
      values[i] = turned_latent_query(write, row, head, value, turns[i]);
    });
    each_of(first,
            [&](int i, int row, int value) { *turned_latent_query_at(write, row, head, value) = values[i]; });
  }
  const int steps = p.rows_of_head / 16;
  uint32_t a[steps_max][4];  // row, row + 8, and the same eight columns further: of the transposed matrix
#pragma unroll
  for (int s = 0; s < steps_max; s++)
    if (s < steps)
      load_transposed(a[s], &weights[s * 16 + lane / 16 * 8 + lane % 8][warp * 16 + lane / 8 % 2 * 8]);
  for (int row = begin, number = 0; row < end; row += eight, number++) {
    wait_for_copies<stages - 2>();
    __syncthreads();  // the rows are there, and those whose place the next ones take were read
    fetch(row + (stages - 1) * eight, (number + stages - 1) % stages);
    const float* const in = staged[number % stages][group] + quarter * 2;
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

template <int Chunks, bool Rounds>
void launch_rows(const HeadProduct& p, cudaStream_t stream) {
  launch("a head product",
         p.out_type == Activations::bf16 ? head_rows<Chunks, __nv_bfloat16, Rounds>
                                         : head_rows<Chunks, float, Rounds>,
         grid_for(p, p.rows_of_head, 16), threads, 0, stream, p);
}

template <bool Writes>
void launch_columns(const HeadProduct& p, const LatentWrite& write, const RowTables& tables,
                    cudaStream_t stream) {
  launch("a head product",
         p.weight.type == DType::bf16 ? head_columns<Writes, false> : head_columns<Writes, true>,
         grid_for(p, p.weight.columns, transposed_columns, Writes ? 1 : 0), threads, 0, stream, p, write,
         tables);
}

bool takes(const HeadProduct& p, bool transposed) {
  if (p.rows_of_head % 16 != 0) return false;
  // Rows are read sixteen bytes at once.
  const int at_once = p.in_type == Activations::bf16 ? 8 : 4;
  if (p.in_pitch % at_once != 0 || p.in_head % at_once != 0) return false;
  if (transposed)
    return p.in_type == Activations::f32 && p.rows_of_head <= transposed_rows_max &&
           p.weight.columns % transposed_columns == 0;
  return p.in_type == p.out_type && (p.weight.columns == 128 || p.weight.columns == 512);
}

}  // namespace

bool stream_heads(const HeadProduct& p, bool transposed, cudaStream_t stream) {
  if (!takes(p, transposed)) return false;
  const bool rounds = p.weight.type != DType::bf16;
  if (transposed)
    launch_columns<false>(p, {}, {}, stream);
  else if (p.weight.columns == 128)
    rounds ? launch_rows<1, true>(p, stream) : launch_rows<1, false>(p, stream);
  else
    rounds ? launch_rows<4, true>(p, stream) : launch_rows<4, false>(p, stream);
  return true;
}

bool stream_heads_and_write(const HeadProduct& p, const LatentWrite& write, const RowTables& tables,
                            cudaStream_t stream) {
  if (!p.rounds || !takes(p, true)) return false;
  launch_columns<true>(p, write, tables, stream);
  return true;
}

}  // namespace convoy::cuda
