#include "gpu/cuda/attention_tensor.cuh"
#include "gpu/cuda/attention_tensor.hpp"

namespace convoy::cuda {
namespace {

constexpr int warps = 8, threads = warps * 32;
constexpr int latent = 512, width = 576;   // an entry's first values are its value too
constexpr int heads_max = 16, chunk = 32;  // of a block; positions at once
constexpr int pitch = width + 8;  // in shared memory: eight rows' sixteen bytes lie in different banks
constexpr int halves = 2, steps = width / 16 / halves;  // a score's products, shared by two warps
constexpr int value_columns = latent / warps;           // of a warp
constexpr int tokens = static_cast<int>(gpu::kv_block_tokens);
static_assert(tokens % chunk == 0);  // a chunk lies in one block of the cache

struct Shared {
  __nv_bfloat16 q[heads_max][pitch];
  __nv_bfloat16 entries[2][chunk][pitch];
  float scores[halves][heads_max][chunk + 4];
  float2 weights[heads_max];  // the largest score, the sum of weights
  bool ends_last;
};
constexpr int value_pitch = latent + 8;  // what a warp writes at once lies in different banks
static_assert(sizeof(float) * heads_max * value_pitch <= sizeof(Shared::entries));

/// Absorbed latent attention (arXiv 2405.04434, appendix C): a block attends with 16 heads over its share of
/// a row's positions. Of 32 positions each warp computes eight's scores over half of an entry, then all weigh
/// 64 of the latent's values each.
/// Bytes: each entry once for every 16 heads; operations: 2 · 16 · (576 + 512) a position.
__global__ void __launch_bounds__(threads, 2) attend_entries(const Attention a, const RowTables tables) {
  extern __shared__ uint4 memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  let_next_begin();
  const int row = static_cast<int>(blockIdx.x);
  if (!has_row(a.rows, row)) return wait_for_previous();
  const int head = static_cast<int>(blockIdx.y) * heads_max, heads = min(heads_max, a.heads - head);
  const int part = static_cast<int>(blockIdx.z);
  const int seen = tables.early_position(row) + 1;
  const Share share = share_of(seen, a.parts, part);
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int group = lane / 4, quarter = lane % 4;

  const uint32_t* const table = tables.early_table(row);
  const auto* const all = static_cast<const __nv_bfloat16*>(a.keys.data);
  const auto block_of = [&](int number) {
    const int first = share.begin + number * chunk;
    return first < share.end ? int64_t{__ldcg(table + first / tokens)} * tokens : 0;
  };
  int64_t next_block = block_of(0);
  const auto fetch = [&](int number) {
    const int first = share.begin + number * chunk;
    const __nv_bfloat16* const from = all + (next_block + first % tokens) * width;
    const int there = share.end - first;
    for (int i = thread; i < chunk * (width / 8); i += threads) {
      const int own = i / (width / 8), column = i % (width / 8) * 8;
      copy_async(&shared.entries[number % 2][own][column], from + min(own, there - 1) * width + column);
    }
    end_copies();
    next_block = block_of(number + 1);
  };
  const int chunks = share.begin < share.end ? (share.end - share.begin + chunk - 1) / chunk : 0;
  // Two chunks are under way. Entries that this step does not write are there already.
  int fetched = 0;
  const int older = seen - tables.early_index(row);
  while (fetched < min(2, chunks) && min(share.begin + (fetched + 1) * chunk, share.end) < older)
    fetch(fetched++);
  wait_for_previous();
  while (fetched < min(2, chunks)) fetch(fetched++);
  {
    constexpr int fours = width / 4, own_fours = heads_max * fours / threads;
    static_assert(heads_max * fours % threads == 0);
    float4 q[own_fours];
#pragma unroll
    for (int i = 0; i < own_fours; i++) {
      const int own = (thread + i * threads) / fours, four = (thread + i * threads) % fours;
      q[i] = *reinterpret_cast<const float4*>(a.q + row * a.q_pitch + (head + min(own, heads - 1)) * width +
                                              four * 4);
    }
    const float scale = a.scale * log2_e;
#pragma unroll
    for (int i = 0; i < own_fours; i++) {
      const int own = (thread + i * threads) / fours, four = (thread + i * threads) % fours;
      *reinterpret_cast<uint2*>(&shared.q[own][four * 4]) = {two_bf16(q[i].x * scale, q[i].y * scale),
                                                             two_bf16(q[i].z * scale, q[i].w * scale)};
    }
  }

  const int tile = warp % (chunk / 8), half = warp / (chunk / 8);
  TwoRows softmax;
  float sums[value_columns / 8][4] = {};
  for (int number = 0; number < chunks; number++) {
    if (number + 1 < chunks)
      wait_for_copies<1>();
    else
      wait_for_copies<0>();
    __syncthreads();
    const auto& entries = shared.entries[number % 2];
    {
      float even[4] = {}, odd[4] = {};  // two chains of products
#pragma unroll
      for (int i = 0; i < steps; i += 2) {
        const int column = (half * steps + i) * 16;
        uint32_t q[2][4], b[4];
        load_matrices(q[0], &shared.q[lane % 16][column + lane / 16 * 8]);
        load_matrices(b, &entries[tile * 8 + lane % 8][column + lane / 8 * 8]);  // of both products
        mma(even, q[0], b[0], b[1]);
        load_matrices(q[1], &shared.q[lane % 16][column + 16 + lane / 16 * 8]);
        mma(odd, q[1], b[2], b[3]);
      }
#pragma unroll
      for (int c = 0; c < 4; c++)
        shared.scores[half][group + c / 2 * 8][tile * 8 + quarter * 2 + c % 2] = even[c] + odd[c];
    }
    __syncthreads();
    float scores[chunk / 8][4];
#pragma unroll
    for (int n = 0; n < chunk / 8; n++)
#pragma unroll
      for (int c = 0; c < 4; c++) {
        const int own = group + c / 2 * 8, column = n * 8 + quarter * 2 + c % 2;
        scores[n][c] = share.begin + number * chunk + column < share.end
                           ? shared.scores[0][own][column] + shared.scores[1][own][column]
                           : -INFINITY;
      }
    float kept[2];
    softmax.take(scores, kept);
#pragma unroll
    for (int n = 0; n < value_columns / 8; n++)
#pragma unroll
      for (int c = 0; c < 4; c++) sums[n][c] *= kept[c / 2];
#pragma unroll
    for (int i = 0; i < chunk / 16; i++) {
      const uint32_t weights[4]{two_bf16(scores[2 * i][0], scores[2 * i][1]),
                                two_bf16(scores[2 * i][2], scores[2 * i][3]),
                                two_bf16(scores[2 * i + 1][0], scores[2 * i + 1][1]),
                                two_bf16(scores[2 * i + 1][2], scores[2 * i + 1][3])};
#pragma unroll
      for (int n = 0; n < value_columns / 16; n++) {
        uint32_t b[4];
        load_transposed(b, &entries[i * 16 + lane % 16][warp * value_columns + n * 16 + lane / 16 * 8]);
        mma(sums[2 * n], weights, b[0], b[1]);
        mma(sums[2 * n + 1], weights, b[2], b[3]);
      }
    }
    __syncthreads();  // before the chunk's place and the scores are written again
    if (number + 2 < chunks) fetch(number + 2);
  }
  auto* const values = reinterpret_cast<float*>(shared.entries);  // [heads][value_pitch]
#pragma unroll
  for (int r = 0; r < 2; r++) {
    const float sum = quad_sum(softmax.sums[r]);
    const int own = group + 8 * r;
    if (own >= heads) continue;
    if (warp == 0 && quarter == 0) shared.weights[own] = {softmax.largest[r], sum};
    const int column = warp * value_columns + quarter * 2;
#pragma unroll
    for (int n = 0; n < value_columns / 8; n++)
      *reinterpret_cast<float2*>(values + own * value_pitch + column + n * 8) = {sums[n][2 * r],
                                                                                 sums[n][2 * r + 1]};
  }
  join_blocks<latent, value_pitch>(a, row, head, heads, values, shared.weights, shared.ends_last);
}

}  // namespace

ClusterRoom cluster_room_of_latents() { return cluster_room(attend_entries, threads, sizeof(Shared)); }

void attend_latent(const Attention& a, const RowTables& tables, cudaStream_t stream) {
  check(cudaFuncSetAttribute(attend_entries, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(sizeof(Shared))),
        "cudaFuncSetAttribute");
  const dim3 grid(grid_of(a.rows.max), static_cast<unsigned>((a.heads + heads_max - 1) / heads_max),
                  static_cast<unsigned>(a.parts));
  launch_clusters("attend_entries", attend_entries, grid, a.cluster, threads, sizeof(Shared), stream, a,
                  tables);
}

}  // namespace convoy::cuda
