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

struct Shared {
  __nv_bfloat16 q[heads_max][pitch];
  __nv_bfloat16 entries[2][chunk][pitch];
  float scores[halves][heads_max][chunk + 4];
};

/// Absorbed latent attention (arXiv 2405.04434, appendix C): a block attends with 16 heads over its share of
/// a row's positions. Of 32 positions each warp computes eight's scores over half of an entry, then all weigh
/// 64 of the latent's values each.
/// Bytes: each entry once for every 16 heads; operations: 2 · 16 · (576 + 512) a position.
__global__ void __launch_bounds__(threads, 2) attend_entries(const Attention a, const RowTables tables) {
  extern __shared__ uint4 memory[];
  Shared& shared = *reinterpret_cast<Shared*>(memory);
  follow_previous();
  const int row = static_cast<int>(blockIdx.x);
  if (!has_row(a.rows, row)) return;
  const int head = static_cast<int>(blockIdx.y) * heads_max, heads = min(heads_max, a.heads - head);
  const int part = static_cast<int>(blockIdx.z);
  const int seen = tables.position[row] + 1;
  const Share share = share_of(seen, a.parts, part);
  if (share.begin >= share.end) return;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int group = lane / 4, quarter = lane % 4;

  const uint32_t* const table = tables.table_of(row);
  const auto* const all = static_cast<const __nv_bfloat16*>(a.keys.data);
  const auto fetch = [&](int number) {
    for (int i = thread; i < chunk * (width / 8); i += threads) {
      const int own = i / (width / 8), column = i % (width / 8) * 8;
      const int position = min(share.begin + number * chunk + own, share.end - 1);
      copy_async(&shared.entries[number % 2][own][column],
                 all + cache_index(table, position, a.keys.width) + column);
    }
    end_copies();
  };
  const int chunks = (share.end - share.begin + chunk - 1) / chunk;
  fetch(0);
  for (int i = thread; i < heads_max * (width / 2); i += threads) {
    const int own = i / (width / 2), column = i % (width / 2) * 2;
    const float2 two = *reinterpret_cast<const float2*>(a.q + row * a.q_pitch +
                                                        (head + min(own, heads - 1)) * width + column);
    *reinterpret_cast<uint32_t*>(&shared.q[own][column]) =
        two_bf16(two.x * (a.scale * log2_e), two.y * (a.scale * log2_e));
  }

  const int tile = warp % (chunk / 8), half = warp / (chunk / 8);
  TwoRows softmax;
  float sums[value_columns / 8][4] = {};
  for (int number = 0; number < chunks; number++) {
    if (number + 1 < chunks) {
      fetch(number + 1);
      wait_for_copies<1>();
    } else {
      wait_for_copies<0>();
    }
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
  }
#pragma unroll
  for (int r = 0; r < 2; r++) {
    const float sum = quad_sum(softmax.sums[r]);
    const int own = group + 8 * r;
    if (own >= heads) continue;
    const int column = warp * value_columns + quarter * 2;
    if (a.parts == 1) {
      // What comes next, the way out of the latents' space, reads float32 or bf16.
      const int64_t at = row * a.out.pitch + (head + own) * latent + column;
#pragma unroll
      for (int n = 0; n < value_columns / 8; n++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
          const float value = sums[n][2 * r + e] / sum;
          if (a.out.type == Activations::bf16)
            static_cast<__nv_bfloat16*>(a.out.data)[at + n * 8 + e] = __float2bfloat16_rn(value);
          else
            static_cast<float*>(a.out.data)[at + n * 8 + e] = value;
        }
    } else {
      float* const to = a.partial + ((static_cast<int64_t>(row) * a.heads + head + own) * a.parts + part) *
                                        share_pitch(latent);
      if (warp == 0 && quarter == 0) to[latent] = softmax.largest[r], to[latent + 1] = sum;
#pragma unroll
      for (int n = 0; n < value_columns / 8; n++)
        to[column + n * 8] = sums[n][2 * r], to[column + n * 8 + 1] = sums[n][2 * r + 1];
    }
  }
}

}  // namespace

void attend_latent(const Attention& a, const RowTables& tables, cudaStream_t stream) {
  check(cudaFuncSetAttribute(attend_entries, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(sizeof(Shared))),
        "cudaFuncSetAttribute");
  const dim3 grid(grid_of(a.rows.max), static_cast<unsigned>((a.heads + heads_max - 1) / heads_max),
                  static_cast<unsigned>(a.parts));
  launch("attend_entries", attend_entries, grid, threads, sizeof(Shared), stream, a, tables);
}

}  // namespace convoy::cuda
