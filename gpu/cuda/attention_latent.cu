#include <cstddef>

#include "gpu/cuda/attention_tensor.cuh"
#include "gpu/cuda/attention_tensor.hpp"
#include "gpu/cuda/tma.cuh"

namespace convoy::cuda {
namespace {

constexpr int latent = 512, width = 576;  // an entry's first values are its value too
constexpr int heads_max = 16;             // of a block
constexpr int few = 16;                   // positions that are multiplied at once
// In shared memory: what a warp reads or writes at once lies in different banks.
constexpr int pitch = width + 8, value_pitch = latent + 8;
constexpr int tokens = static_cast<int>(gpu::kv_block_tokens);

/// Positions at once: as many as a block may have of shared memory.
constexpr int most_at_once = 64, least_at_once = 32;

/// Who does what of a chunk. A warp scores sixteen positions over a quarter of an entry's values, every
/// fourth sixteen of them; then it makes weights of some heads' scores; then it weighs some columns of all
/// values. With TMA one more thread fetches.
template <int Chunk>
struct Work {
  static constexpr bool by_tma = Chunk == most_at_once;
  static constexpr int splits = 4, pairs = Chunk / few, warps = pairs * splits, threads = warps * 32;
  static constexpr int steps = width / 16 / splits, heads = heads_max / warps, positions = Chunk / 32,
                       columns = latent / warps;
  static_assert(tokens % Chunk == 0 && heads * warps == heads_max && columns == 32 * (64 / Chunk));
  static constexpr int block_threads = threads + (by_tma ? 32 : 0);
};

/// A chunk's entries, as TMA leaves them (tma.cuh) or in padded rows. Addresses of eight columns: from one
/// step of a split's scores to the next, from sixteen positions to the next, and `n` times sixteen columns
/// further within a warp's.
template <int Chunk, bool ByTma>
struct Entries {
  static constexpr int tiles = width / tile_columns, step_bytes = Chunk * tile_columns * 2,
                       positions_bytes = few * tile_columns * 2;
  __nv_bfloat16 values[tiles][Chunk][tile_columns];
  __device__ std::byte* at(int position, int column) {
    return reinterpret_cast<std::byte*>(&values[column / tile_columns][position][0]) +
           (column % tile_columns / 8 ^ position % 8) * 16;
  }
  static __device__ const std::byte* further(const std::byte* at, int n) {
    return reinterpret_cast<const std::byte*>(reinterpret_cast<uintptr_t>(at) ^
                                              static_cast<unsigned>(n * 32));
  }
};
template <int Chunk>
struct Entries<Chunk, false> {
  static constexpr int step_bytes = 4 * 16 * 2, positions_bytes = few * pitch * 2;
  __nv_bfloat16 values[Chunk][pitch];
  __device__ std::byte* at(int position, int column) {
    return reinterpret_cast<std::byte*>(&values[position][column]);
  }
  static __device__ const std::byte* further(const std::byte* at, int n) { return at + n * 32; }
};

/// No more than leaves room for it beside a block of the kernel before: of one row, a step waits for nothing
/// else.
template <int Chunk>
struct Shared {
  using Own = Work<Chunk>;
  using Shares = SharedRow<latent, heads_max, Own::threads>;
  struct Chunks {
    float scores[Own::splits][heads_max][Chunk + 8];
    __nv_bfloat16 weights[heads_max][Chunk + 8];
    float kept[heads_max];  // what earlier sums are multiplied by
  };
  struct Joining {
    float values[heads_max][value_pitch];
    typename Shares::Room room;
  };

  union {
    Entries<Chunk, Own::by_tma> entries[2];
    Joining joining;  // when they were read
  };
  uint64_t there[2], read[2];  // whether they are, and were
  float2 weights[heads_max];   // the largest score, the sum of weights
  union {
    __nv_bfloat16 q[heads_max][pitch];  // until it is in registers
    Chunks behind;
  };
  static_assert(sizeof(joining) <= sizeof(entries));
  static constexpr size_t bytes = tile_align + sizeof(Shared<Chunk>);
};

/// Tiles of the cache's entries: of a whole chunk, and of as many positions as are multiplied at once.
struct EntryMaps {
  CUtensorMap chunk, few;
};

/// The warps that compute; who fetches does not wait for them here.
template <int Threads>
__device__ __forceinline__ void sync_warps() {
  asm volatile("bar.sync 1, %0;" ::"n"(Threads) : "memory");
}

/// Absorbed latent attention (arXiv 2405.04434, appendix C): a block attends with 16 heads over its share of
/// a row's positions.
/// Bytes: each entry once for every 16 heads; operations: 2 · 16 · (576 + 512) a position.
template <int Chunk>
__global__ void __launch_bounds__(Work<Chunk>::block_threads, 1)
    attend_entries(const Attention a, const RowTables tables, const __grid_constant__ EntryMaps maps) {
  extern __shared__ uint4 memory[];
  using Own = Work<Chunk>;
  using Shares = typename Shared<Chunk>::Shares;
  constexpr int threads = Own::threads;
  Shared<Chunk>& shared = *reinterpret_cast<Shared<Chunk>*>(reinterpret_cast<std::byte*>(memory) +
                                                            (-shared_address(memory) & (tile_align - 1)));
  let_next_begin();
  const int row = static_cast<int>(blockIdx.x);
  // Asked for together: each takes as long as all.
  const int seen = tables.early_position(row) + 1, older = seen - tables.early_index(row);
  const uint32_t* const table = tables.early_table(row);
  if (!has_row(a.rows, row)) return wait_for_previous();
  const int head = static_cast<int>(blockIdx.y) * heads_max, heads = min(heads_max, a.heads - head);
  const Share share = share_of(seen, a.parts, static_cast<int>(blockIdx.z), Chunk);
  const int chunks = (share.end - share.begin + Chunk - 1) / Chunk;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int group = lane / 4, quarter = lane % 4;
  Shares shares(a, row, head, heads, shared.joining.room);

  // Two chunks are under way. Entries that this step does not write (below `older`) are there already.
  const auto end_of = [&](int number) { return min(share.begin + (number + 1) * Chunk, share.end); };
  const auto place_of = [&](int number) {
    const int first = share.begin + number * Chunk;
    return first < share.end ? static_cast<int>(__ldcg(table + first / tokens)) * tokens + first % tokens : 0;
  };
  const auto fetch_early = [&](const auto& fetch) {
    int fetched = 0;
    while (fetched < min(2, chunks) && end_of(fetched) < older) fetch(fetched++);
    wait_for_previous();
    while (fetched < min(2, chunks)) fetch(fetched++);
  };
  const auto fetch_rows = [&](int number) {  // without TMA
    const int first = share.begin + number * Chunk;
    const auto* const from =
        static_cast<const __nv_bfloat16*>(a.keys.data) + int64_t{place_of(number)} * width;
    for (int i = thread; i < (end_of(number) - first) * (width / 8); i += threads)
      copy_async(shared.entries[number % 2].at(i / (width / 8), i % (width / 8) * 8), from + i * 8);
    end_copies();
  };
  if constexpr (Own::by_tma) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    if (thread == 0) {
      for (int i = 0; i < 2; i++) init_barrier(shared.there[i], 1), init_barrier(shared.read[i], Own::warps);
      show_barriers();
    }
    __syncthreads();
    if (warp == Own::warps) {
      if (lane > 0) return;
      int place = place_of(0);  // asked for one chunk ahead
      const auto fetch = [&](int number) {
        const int rows = (end_of(number) - share.begin - number * Chunk + few - 1) / few * few;
        auto& to = shared.entries[number % 2];
        uint64_t& barrier = shared.there[number % 2];
        arrive_and_expect(barrier, static_cast<uint32_t>(rows) * width * sizeof(__nv_bfloat16));
#pragma unroll 1
        for (int tile = 0; tile < to.tiles; tile++)
          if (rows == Chunk)
            fetch_tile(to.values[tile], maps.chunk, place, tile * tile_columns, barrier);
          else
#pragma unroll 1
            for (int i = 0; i < rows; i += few)
              fetch_tile(to.values[tile][i], maps.few, place + i, tile * tile_columns, barrier);
        place = place_of(number + 1);
      };
      fetch_early(fetch);
      for (int number = 2; number < chunks; number++)
        wait_for(shared.read[number % 2], static_cast<uint32_t>(number / 2 + 1) % 2), fetch(number);
      return;
    }
    wait_for_previous();
#endif
  } else {
    fetch_early(fetch_rows);
  }
  {
    constexpr int fours = width / 4, all_fours = heads_max * fours,
                  own_fours = (all_fours + threads - 1) / threads;
    float4 q[own_fours];
#pragma unroll
    for (int i = 0; i < own_fours; i++) {
      const int at = min(thread + i * threads, all_fours - 1), own = at / fours, four = at % fours;
      q[i] = *reinterpret_cast<const float4*>(a.q + row * a.q_pitch + (head + min(own, heads - 1)) * width +
                                              four * 4);
    }
    const float scale = a.scale * log2_e;
#pragma unroll
    for (int i = 0; i < own_fours; i++) {
      const int at = min(thread + i * threads, all_fours - 1), own = at / fours, four = at % fours;
      *reinterpret_cast<uint2*>(&shared.q[own][four * 4]) = {two_bf16(q[i].x * scale, q[i].y * scale),
                                                             two_bf16(q[i].z * scale, q[i].w * scale)};
    }
  }
  sync_warps<threads>();
  const int pair = warp % Own::pairs, split = warp / Own::pairs;
  uint32_t q[Own::steps][4];
#pragma unroll
  for (int i = 0; i < Own::steps; i++)
    load_matrices(q[i], &shared.q[lane % 16][(i * Own::splits + split) * 16 + lane / 16 * 8]);
  sync_warps<threads>();  // what lies behind is written from now on

  // What a warp reads of the first place's entries.
  auto& behind = shared.behind;
  const std::byte* const keys =
      shared.entries[0].at(pair * few + lane / 16 * 8 + lane % 8, split * 16 + lane / 8 % 2 * 8);
  const std::byte* const values = shared.entries[0].at(lane % 16, warp * Own::columns + lane / 16 * 8);
  constexpr int place_bytes = sizeof(shared.entries[0]);
  float* const scores = &behind.scores[split][group][pair * few + quarter * 2];

  // Of the heads whose weights a warp makes: the largest score, and the sum of the lane's weights.
  float largest[Own::heads], weight_sums[Own::heads] = {};
#pragma unroll
  for (float& of_head : largest) of_head = -INFINITY;
  float sums[Own::columns / 8][4] = {};
  for (int number = 0; number < chunks; number++) {
    const int there = end_of(number) - share.begin - number * Chunk, place = number % 2 * place_bytes;
    if constexpr (Own::by_tma) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
      wait_for(shared.there[number % 2], number / 2 % 2);
#endif
    } else {
      number + 1 < chunks ? wait_for_copies<1>() : wait_for_copies<0>();
      sync_warps<threads>();
    }
    if (there % few > 0) {  // what lies behind in the cache may be anything
      for (int i = thread; i < (few - there % few) * (width / 8); i += threads)
        *reinterpret_cast<uint4*>(
            shared.entries[number % 2].at(there + i / (width / 8), i % (width / 8) * 8)) = {};
      sync_warps<threads>();
    }
    if (pair * few < there) {
      float of_steps[2][2][4] = {};  // of even and of odd steps: chains of products are shorter
#pragma unroll
      for (int i = 0; i < Own::steps; i++) {
        uint32_t b[4];  // two of eight positions, two of eight columns
        load_matrices(b, keys + place + i * shared.entries[0].step_bytes);
        mma(of_steps[i % 2][0], q[i], b[0], b[1]);
        mma(of_steps[i % 2][1], q[i], b[2], b[3]);
      }
#pragma unroll
      for (int n = 0; n < 2; n++)
#pragma unroll
        for (int r = 0; r < 2; r++)
          *reinterpret_cast<float2*>(scores + r * 8 * (Chunk + 8) + n * 8) = {
              of_steps[0][n][2 * r] + of_steps[1][n][2 * r],
              of_steps[0][n][2 * r + 1] + of_steps[1][n][2 * r + 1]};
    }
    sync_warps<threads>();
#pragma unroll
    for (int h = 0; h < Own::heads; h++) {
      const int own = warp * Own::heads + h;
      float of_head[Own::positions], most = largest[h];
#pragma unroll
      for (int i = 0; i < Own::positions; i++) {
        const int position = i * 32 + lane;
        float sum = 0;
#pragma unroll
        for (int v = 0; v < Own::splits; v++) sum += behind.scores[v][own][position];
        of_head[i] = position < there ? sum : -INFINITY;
        most = fmaxf(most, of_head[i]);
      }
      most = warp_max(most);  // of a position at least
      const float kept = exp2f(largest[h] - most);
      largest[h] = most, weight_sums[h] *= kept;
#pragma unroll
      for (int i = 0; i < Own::positions; i++) {
        const float weight = exp2f(of_head[i] - most);
        weight_sums[h] += weight;
        behind.weights[own][i * 32 + lane] = __float2bfloat16_rn(weight);
      }
      if (lane == 0) behind.kept[own] = kept;
    }
    sync_warps<threads>();
    const float kept[2]{behind.kept[group], behind.kept[group + 8]};
#pragma unroll
    for (int n = 0; n < Own::columns / 8; n++)
#pragma unroll
      for (int c = 0; c < 4; c++) sums[n][c] *= kept[c / 2];
#pragma unroll
    for (int i = 0; i < Own::pairs; i++) {
      if (i * few >= there) break;
      uint32_t weights[4];
      load_matrices(weights, &behind.weights[lane % 16][i * few + lane / 16 * 8]);
#pragma unroll
      for (int n = 0; n < Own::columns / 16; n++) {
        uint32_t b[4];
        load_transposed(b,
                        shared.entries[0].further(values, n) + place + i * shared.entries[0].positions_bytes);
        mma(sums[2 * n], weights, b[0], b[1]);
        mma(sums[2 * n + 1], weights, b[2], b[3]);
      }
    }
    if constexpr (Own::by_tma) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
      __syncwarp();
      if (lane == 0) arrive(shared.read[number % 2]);
#endif
    } else {
      sync_warps<threads>();
      if (number + 2 < chunks) fetch_rows(number + 2);
    }
  }
#pragma unroll
  for (int h = 0; h < Own::heads; h++) {
    const float sum = warp_sum(weight_sums[h]);
    if (lane == 0) shared.weights[warp * Own::heads + h] = {largest[h], sum};
  }
  sync_warps<threads>();  // nobody reads entries any more
  shares.open();
  auto& joined = shared.joining.values;
#pragma unroll
  for (int r = 0; r < 2; r++) {
    const int own = group + 8 * r;
    if (own >= heads) continue;
    const int column = warp * Own::columns + quarter * 2;
#pragma unroll
    for (int n = 0; n < Own::columns / 8; n++)
      *reinterpret_cast<float2*>(&joined[own][column + n * 8]) = {sums[n][2 * r], sums[n][2 * r + 1]};
  }
  sync_warps<threads>();
  shares.wait();
  for (int i = thread; i < heads * Shares::fours; i += threads) {
    const int own = i / Shares::fours, four = i % Shares::fours;
    shares.put(own, four, *reinterpret_cast<const float4*>(&joined[own][four * 4]), shared.weights[own]);
  }
  shares.join();
}

template <int Chunk>
void launch_entries(const Attention& a, const RowTables& tables, cudaStream_t stream) {
  const auto kernel = attend_entries<Chunk>;
  constexpr size_t bytes = Shared<Chunk>::bytes;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
        "cudaFuncSetAttribute");
  EntryMaps maps{};
  if (Work<Chunk>::by_tma) {
    // No tile leaves its block of the cache.
    constexpr int64_t positions = INT32_MAX;
    const auto map = [&](int rows) {
      return map_tiles(a.keys.data, positions, width, width * sizeof(__nv_bfloat16), rows);
    };
    maps = {map(Chunk), map(few)};
  }
  const dim3 grid(grid_of(a.rows.max), static_cast<unsigned>((a.heads + heads_max - 1) / heads_max),
                  static_cast<unsigned>(a.parts));
  launch_clusters("attend_entries", kernel, grid, a.cluster, Work<Chunk>::block_threads, bytes, stream, a,
                  tables, maps);
}

bool takes_most() {
  return knows_wgmma() && shared_memory_max() >= static_cast<int>(Shared<most_at_once>::bytes);
}

}  // namespace

ClusterRoom cluster_room_of_latents() {
  if (!takes_most()) return {};
  return cluster_room(attend_entries<most_at_once>, Work<most_at_once>::block_threads,
                      Shared<most_at_once>::bytes);
}

void attend_latent(const Attention& a, const RowTables& tables, cudaStream_t stream) {
  takes_most() ? launch_entries<most_at_once>(a, tables, stream)
               : launch_entries<least_at_once>(a, tables, stream);
}

}  // namespace convoy::cuda
