#include "gpu/cuda/attention_tensor.cuh"
#include "gpu/cuda/attention_tensor.hpp"

namespace convoy::cuda {
namespace {

constexpr int warps = 4, threads = warps * 32;
constexpr int block_queries = warps * 16;  // a row's head each
constexpr int chunk = 64;                  // positions at once: a block of the cache
static_assert(chunk == gpu::kv_block_tokens);

/// Values from a position to the next in shared memory: eight rows' sixteen bytes lie in different banks.
constexpr int pitch_of(int width) { return width + 8; }
constexpr size_t shared_bytes(int width) {
  return size_t{2} * 2 * chunk * static_cast<size_t>(pitch_of(width)) * sizeof(__nv_bfloat16);
}

/// FlashAttention (arXiv 2205.14135, 2307.08691): a block attends with all queries of one key of as many
/// consecutive rows of a sequence as fill its 64, over chunks of 64 positions, the next one on its way.
/// Bytes: keys and values once for each block; operations: 4 · 64 · D a position, half of them above the
/// diagonal.
template <int D>
__global__ void __launch_bounds__(threads, 2) attend_runs(const Attention a, const RowTables tables) {
  constexpr int pitch = pitch_of(D);
  extern __shared__ uint4 shared[];
  auto* const keys = reinterpret_cast<__nv_bfloat16*>(shared);  // [2][chunk][pitch]
  __nv_bfloat16* const values = keys + 2 * chunk * pitch;
  follow_previous();
  const int row = static_cast<int>(blockIdx.x), kv_head = static_cast<int>(blockIdx.y);
  const int group_size = a.heads / a.kv_heads, rows_max = block_queries / group_size;
  if (!has_row(a.rows, row) || tables.index[row] % rows_max != 0) return;
  const int rows = min(rows_max, tables.left[row]);
  const int first_position = tables.position[row], seen = first_position + rows;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int group = lane / 4, quarter = lane % 4;

  const uint32_t* const table = tables.table_of(row);
  const auto fetch = [&](int number) {  // a chunk is a block of the cache
    const int64_t from = int64_t{table[number]} * chunk;
    const auto* const k = static_cast<const __nv_bfloat16*>(a.keys.data) + from * a.keys.width + kv_head * D;
    const auto* const v =
        static_cast<const __nv_bfloat16*>(a.values.data) + from * a.values.width + kv_head * D;
    __nv_bfloat16 *const to_keys = keys + number % 2 * chunk * pitch, *const to_values =
                                                                          values + number % 2 * chunk * pitch;
    const int there = min(chunk, seen - number * chunk);
    for (int i = thread; i < chunk * (D / 8); i += threads) {
      const int position = i / (D / 8), column = i % (D / 8) * 8, from_position = min(position, there - 1);
      copy_async(to_keys + position * pitch + column, k + int64_t{from_position} * a.keys.width + column);
      copy_async(to_values + position * pitch + column, v + int64_t{from_position} * a.values.width + column);
    }
    end_copies();
  };
  const int chunks = (seen + chunk - 1) / chunk;
  fetch(0);

  // Two queries of a thread: which rows' and heads' they are. Behind the last there are copies of it.
  const int queries = rows * group_size;
  int of_row[2], of_head[2];
  uint32_t q[D / 16][4];
#pragma unroll
  for (int r = 0; r < 2; r++) {
    const int query = min(warp * 16 + group + 8 * r, queries - 1);
    of_row[r] = query / group_size, of_head[r] = kv_head * group_size + query % group_size;
    const float* const from = a.q + (row + of_row[r]) * a.q_pitch + of_head[r] * D + quarter * 2;
    const float scale = a.scale * log2_e;
#pragma unroll
    for (int i = 0; i < D / 16; i++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const float2 two = *reinterpret_cast<const float2*>(from + i * 16 + half * 8);
        q[i][half * 2 + r] = two_bf16(two.x * scale, two.y * scale);
      }
  }

  const bool idle = warp * 16 >= queries;  // it copies with the others, and computes nothing
  TwoRows softmax;
  float sums[D / 8][4] = {};
  for (int number = 0; number < chunks; number++) {
    if (number + 1 < chunks) {
      fetch(number + 1);
      wait_for_copies<1>();
    } else {
      wait_for_copies<0>();
    }
    __syncthreads();
    if (!idle) {
      const __nv_bfloat16* const k = keys + number % 2 * chunk * pitch;
      const __nv_bfloat16* const v = values + number % 2 * chunk * pitch;
      float scores[chunk / 8][4] = {};
#pragma unroll
      for (int i = 0; i < D / 16; i++)
#pragma unroll
        for (int n = 0; n < chunk / 16; n++) {
          uint32_t b[4];
          load_matrices(b, k + (n * 16 + lane / 16 * 8 + lane % 8) * pitch + i * 16 + lane / 8 % 2 * 8);
          mma(scores[2 * n], q[i], b[0], b[1]);
          mma(scores[2 * n + 1], q[i], b[2], b[3]);
        }
      if ((number + 1) * chunk > first_position + 1) {  // some of the rows may not see all of it
#pragma unroll
        for (int n = 0; n < chunk / 8; n++)
#pragma unroll
          for (int c = 0; c < 4; c++)
            if (number * chunk + n * 8 + quarter * 2 + c % 2 > first_position + of_row[c / 2])
              scores[n][c] = -INFINITY;
      }
      float kept[2];
      softmax.take(scores, kept);
#pragma unroll
      for (int n = 0; n < D / 8; n++)
#pragma unroll
        for (int c = 0; c < 4; c++) sums[n][c] *= kept[c / 2];
#pragma unroll
      for (int i = 0; i < chunk / 16; i++) {
        const uint32_t weights[4]{two_bf16(scores[2 * i][0], scores[2 * i][1]),
                                  two_bf16(scores[2 * i][2], scores[2 * i][3]),
                                  two_bf16(scores[2 * i + 1][0], scores[2 * i + 1][1]),
                                  two_bf16(scores[2 * i + 1][2], scores[2 * i + 1][3])};
#pragma unroll
        for (int n = 0; n < D / 16; n++) {
          uint32_t b[4];
          load_transposed(b, v + (i * 16 + lane % 16) * pitch + n * 16 + lane / 16 * 8);
          mma(sums[2 * n], weights, b[0], b[1]);
          mma(sums[2 * n + 1], weights, b[2], b[3]);
        }
      }
    }
    __syncthreads();  // before this chunk's place is filled again
  }
#pragma unroll
  for (int r = 0; r < 2; r++) {
    const float sum = quad_sum(softmax.sums[r]);
    if (warp * 16 + group + 8 * r >= queries) continue;
    auto* const out = static_cast<__nv_bfloat16*>(a.out.data) + (row + of_row[r]) * a.out.pitch +
                      of_head[r] * D + quarter * 2;
#pragma unroll
    for (int n = 0; n < D / 8; n++)
      *reinterpret_cast<uint32_t*>(out + n * 8) = two_bf16(sums[n][2 * r] / sum, sums[n][2 * r + 1] / sum);
  }
}

template <int D>
void launch_runs(const Attention& a, const RowTables& tables, cudaStream_t stream) {
  check(cudaFuncSetAttribute(attend_runs<D>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(shared_bytes(D))),
        "cudaFuncSetAttribute");
  launch("attend_runs", attend_runs<D>, dim3(grid_of(a.rows.max), static_cast<unsigned>(a.kv_heads)), threads,
         shared_bytes(D), stream, a, tables);
}

}  // namespace

void attend_many(const Attention& a, const RowTables& tables, cudaStream_t stream) {
  if (a.key_width == 64)
    launch_runs<64>(a, tables, stream);
  else
    launch_runs<128>(a, tables, stream);
}

}  // namespace convoy::cuda
