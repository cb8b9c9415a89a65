#include <algorithm>
#include <limits>

#include "gpu/cuda/attention_tensor.cuh"
#include "gpu/cuda/attention_tensor.hpp"

namespace convoy::cuda {
namespace {

constexpr int heads_max = 16;  // of a block: a tile of the tensor cores
constexpr int tokens = static_cast<int>(gpu::kv_block_tokens);

/// Floats from a head's sums to the next: what eight threads write at once lies in different banks.
constexpr int pitch_of(int width) { return width + 4; }
/// In shared memory: a block's heads' sums by each of its warps.
constexpr size_t sums_bytes(int width, int warps, int heads) {
  return static_cast<size_t>(warps) * static_cast<size_t>(heads) * static_cast<size_t>(pitch_of(width)) *
         sizeof(float);
}

__device__ __forceinline__ uint32_t low_halves(uint32_t a, uint32_t b) { return __byte_perm(a, b, 0x5410); }
__device__ __forceinline__ uint32_t high_halves(uint32_t a, uint32_t b) { return __byte_perm(a, b, 0x7632); }

/// How a query, or a key, is turned of which a thread has eight values of each 32 from quarter · 8 on. All of
/// a head's values are.
template <int D>
class HeadTurn {
 public:
  HeadTurn() = default;
  __device__ HeadTurn(const RotationView& r, int position, int quarter) {
#pragma unroll
    for (int i = 0; i < chunks; i++)
#pragma unroll
      for (int v = 0; v < 4; v++) {
        const int pair = r.interleaved ? i * 16 + quarter * 4 + v : i / 2 * 32 + quarter * 8 + i % 2 * 4 + v;
        cosines_[i][v] = r.cosines[int64_t{position} * (D / 2) + pair];
        sines_[i][v] = r.sines[int64_t{position} * (D / 2) + pair];
      }
  }
  /// Normalises the values first, if there is a norm.
  __device__ void operator()(const float* norm, const GroupedWrite& w, int quarter,
                             float (&values)[D / 32][8]) const {
    if (norm) {
      float squares = 0;
#pragma unroll
      for (int i = 0; i < chunks; i++)
#pragma unroll
        for (int v = 0; v < 8; v++) squares = fmaf(values[i][v], values[i][v], squares);
      const float scale = 1.0f / sqrtf(quad_sum(squares) / static_cast<float>(D) + w.eps);
#pragma unroll
      for (int i = 0; i < chunks; i++)
#pragma unroll
        for (int v = 0; v < 8; v++) values[i][v] *= scale * norm[i * 32 + quarter * 8 + v];
    }
    // Four pairs of each chunk: neighbours in it, or a half of the chunk and of that half a head further.
#pragma unroll
    for (int i = 0; i < chunks; i++)
#pragma unroll
      for (int v = 0; v < 4; v++) {
        if (w.rotations.interleaved)
          turn(values[i][2 * v], values[i][2 * v + 1], cosines_[i][v], sines_[i][v]);
        else
          turn(values[i / 2][i % 2 * 4 + v], values[i / 2 + chunks / 2][i % 2 * 4 + v], cosines_[i][v],
               sines_[i][v]);
      }
  }

 private:
  static constexpr int chunks = D / 32;
  static __device__ void turn(float& a, float& b, float cosine, float sine) {
    const float turned = a * cosine - b * sine;
    b = b * cosine + a * sine, a = turned;
  }
  float cosines_[chunks][4], sines_[chunks][4];
};

/// A block attends with up to 16 queries of one key over its share of a row's positions, each warp sixteen at
/// a time. Keys and values go from memory into registers as they lie, sixteen bytes a thread: which of a
/// head's values meet in which product does not matter to a score, and a weighted sum's columns may be any.
/// Writes: rows are decodes, and the block whose share ends with the row's own position makes that one's key
/// and value and writes them. Where several tiles of queries have the same key, each does the same. Bytes:
/// keys and values once; operations: 4 · 16 · D a position.
template <int D, bool Writes, int Warps>
__global__ void __launch_bounds__(Warps * 32, 8 / Warps)
    attend_rows(const Attention a, const GroupedWrite w, const RowTables tables) {
  constexpr int key_loads = D / 32, value_loads = D / 64;
  constexpr int threads = Warps * 32, stride = Warps * 16;  // positions at once
  static_assert(stride % tokens == 0);
  constexpr int pitch = pitch_of(D);
  using Shares = SharedRow<D, heads_max, threads>;
  extern __shared__ float4 memory[];
  auto* const joined = reinterpret_cast<float*>(memory);  // [Warps][heads][pitch]
  __shared__ typename Shares::Room room;
  __shared__ float2 of_warps[Warps][heads_max];  // the largest score, the sum of weights
  __shared__ __align__(16) __nv_bfloat16 own_key[D], own_value[D];
  let_next_begin();
  const int row = static_cast<int>(blockIdx.x);
  // Asked for together: each takes as long as all.
  const int seen = tables.early_position(row) + 1;
  const uint32_t* const table = tables.early_table(row);
  if (!has_row(a.rows, row)) return wait_for_previous();
  const int group_size = a.heads / a.kv_heads, tiles = (group_size + heads_max - 1) / heads_max;
  const int kv_head = static_cast<int>(blockIdx.y) / tiles, tile = static_cast<int>(blockIdx.y) % tiles;
  const int head = kv_head * group_size + tile * heads_max,
            heads = min(heads_max, group_size - tile * heads_max);
  const int part = static_cast<int>(blockIdx.z);
  const Share share = share_of(seen, a.parts, part);
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int group = lane / 4, quarter = lane % 4;
  Shares shares(a, row, head, heads, room);
  shares.open();

  const auto* const all_keys = static_cast<const __nv_bfloat16*>(a.keys.data) + kv_head * D;
  const auto* const all_values = static_cast<const __nv_bfloat16*>(a.values.data) + kv_head * D;
  uint4 keys[2][key_loads], values[4][value_loads];
  // Sixteen positions lie in one block of the cache, a warp's next ones in the next block. Of a thread: a
  // key's group and group + 8; a value's 2 · quarter, the next, and 8 further; behind the share's last one
  // that one. Those before `from` are left as they are, and the row's own position's are the block's own,
  // from then on that it has them.
  bool has_own = false;
  const auto block_of = [&](int position) {
    return position < share.end ? int64_t{__ldcg(table + position / tokens)} * tokens : 0;
  };
  const auto fetch_keys = [&](int first, int64_t block, int from = 0) {
#pragma unroll
    for (int n = 0; n < 2; n++) {
      const int position = min(first + n * 8 + group, share.end - 1);
      if (position < from) continue;
      const __nv_bfloat16* const at =
          (has_own && position == seen - 1 ? own_key
                                           : all_keys + (block + position % tokens) * a.keys.width) +
          quarter * 8;
#pragma unroll
      for (int i = 0; i < key_loads; i++) keys[n][i] = *reinterpret_cast<const uint4*>(at + i * 32);
    }
  };
  const auto fetch_values = [&](int first, int64_t block, int from = 0) {
#pragma unroll
    for (int n = 0; n < 4; n++) {
      const int position = min(first + quarter * 2 + n % 2 + n / 2 * 8, share.end - 1);
      if (position < from) continue;
      const __nv_bfloat16* const at =
          (has_own && position == seen - 1 ? own_value
                                           : all_values + (block + position % tokens) * a.values.width) +
          group * 8;
#pragma unroll
      for (int i = 0; i < value_loads; i++) values[n][i] = *reinterpret_cast<const uint4*>(at + i * 64);
    }
  };
  // Of a decode all that other steps wrote is there already; its own key and value come below.
  int first = share.begin + warp * 16;
  const int64_t block = block_of(first);
  int64_t next_block = block_of(first + stride);
  const bool own = Writes && share.begin < share.end && share.end == seen;
  HeadTurn<D> turn;
  if constexpr (Writes) {
    if (first < share.end) fetch_keys(first, block), fetch_values(first, block);
    turn = HeadTurn<D>(w.rotations, seen - 1, quarter);
  }
  wait_for_previous();
  if (own && warp == 0) {
    float key[key_loads][8];
#pragma unroll
    for (int i = 0; i < key_loads; i++)
      load_eight(w.k + row * w.kv_pitch + kv_head * D + i * 32 + quarter * 8, key[i]);
    turn(w.k_norm, w, quarter, key);
    auto* const to = static_cast<__nv_bfloat16*>(w.keys.data) +
                     early_cache_index(table, seen - 1, w.keys.width) + kv_head * D;
#pragma unroll
    for (int i = 0; i < key_loads; i++)
      if (group == 0) {
        const uint4 packed = packed_bf16(key[i]);
        *reinterpret_cast<uint4*>(own_key + i * 32 + quarter * 8) = packed;
        *reinterpret_cast<uint4*>(to + i * 32 + quarter * 8) = packed;
      }
  } else if (own && warp == 1 && lane < D / 8) {
    float value[8];
    load_eight(w.v + row * w.kv_pitch + kv_head * D + lane * 8, value);
    auto* const to = static_cast<__nv_bfloat16*>(w.values.data) +
                     early_cache_index(table, seen - 1, w.values.width) + kv_head * D;
    const uint4 packed = packed_bf16(value);
    *reinterpret_cast<uint4*>(own_value + lane * 8) = packed;
    *reinterpret_cast<uint4*>(to + lane * 8) = packed;
  }
  uint32_t q[key_loads][2][4];  // of rows group and group + 8: eight values each
#pragma unroll
  for (int r = 0; r < 2; r++) {
    float of_head[key_loads][8];
#pragma unroll
    for (int i = 0; i < key_loads; i++)
      load_eight(a.q + row * a.q_pitch + (head + min(group + 8 * r, heads - 1)) * D + i * 32 + quarter * 8,
                 of_head[i]);
    if constexpr (Writes) turn(w.q_norm, w, quarter, of_head);
#pragma unroll
    for (int i = 0; i < key_loads; i++)
#pragma unroll
      for (int v = 0; v < 4; v++)
        q[i][r][v] =
            two_bf16(of_head[i][2 * v] * (a.scale * log2_e), of_head[i][2 * v + 1] * (a.scale * log2_e));
  }
  if (own) {
    __syncthreads();
    has_own = true;
    if (first < share.end) fetch_keys(first, block, seen - 1), fetch_values(first, block, seen - 1);
  } else if (!Writes && first < share.end) {
    fetch_keys(first, block), fetch_values(first, block);
  }

  TwoRows rows;
  float sums[value_loads][8][4] = {};
  for (; first < share.end; first += stride) {
    const int next = first + stride;
    float scores[2][4] = {};
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
      for (int i = 0; i < key_loads; i++) {
        const uint32_t(&low)[4] = q[i][0], (&high)[4] = q[i][1];
        mma(scores[n], {low[0], high[0], low[1], high[1]}, keys[n][i].x, keys[n][i].y);
        mma(scores[n], {low[2], high[2], low[3], high[3]}, keys[n][i].z, keys[n][i].w);
      }
    if (next < share.end) fetch_keys(next, next_block);
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
      for (int c = 0; c < 4; c++)
        if (first + n * 8 + quarter * 2 + c % 2 >= share.end) scores[n][c] = -INFINITY;
    float kept[2];
    rows.take(scores, kept);
    const uint32_t weights[4]{two_bf16(scores[0][0], scores[0][1]), two_bf16(scores[0][2], scores[0][3]),
                              two_bf16(scores[1][0], scores[1][1]), two_bf16(scores[1][2], scores[1][3])};
#pragma unroll
    for (int i = 0; i < value_loads; i++) {
      const uint32_t v[4][4]{{values[0][i].x, values[0][i].y, values[0][i].z, values[0][i].w},
                             {values[1][i].x, values[1][i].y, values[1][i].z, values[1][i].w},
                             {values[2][i].x, values[2][i].y, values[2][i].z, values[2][i].w},
                             {values[3][i].x, values[3][i].y, values[3][i].z, values[3][i].w}};
#pragma unroll
      for (int c = 0; c < 8; c++) {
#pragma unroll
        for (int e = 0; e < 4; e++) sums[i][c][e] *= kept[e / 2];
        const bool high = c % 2;
        const uint32_t b0 =
            high ? high_halves(v[0][c / 2], v[1][c / 2]) : low_halves(v[0][c / 2], v[1][c / 2]);
        const uint32_t b1 =
            high ? high_halves(v[2][c / 2], v[3][c / 2]) : low_halves(v[2][c / 2], v[3][c / 2]);
        mma(sums[i][c], weights, b0, b1);
      }
    }
    if (next < share.end) fetch_values(next, next_block);
    next_block = block_of(next + stride);
  }

#pragma unroll
  for (int r = 0; r < 2; r++) {
    const float sum = quad_sum(rows.sums[r]);
    const int own_head = group + 8 * r;
    if (own_head >= heads) continue;
    if (quarter == 0) of_warps[warp][own_head] = {rows.largest[r], sum};
#pragma unroll
    for (int i = 0; i < value_loads; i++)
#pragma unroll
      for (int e = 0; e < 2; e++)
#pragma unroll
        for (int c = 0; c < 8; c += 4)
          *reinterpret_cast<float4*>(joined + (warp * heads + own_head) * pitch + i * 64 +
                                     (quarter * 2 + e) * 8 +
                                     c) = {sums[i][c][2 * r + e], sums[i][c + 1][2 * r + e],
                                           sums[i][c + 2][2 * r + e], sums[i][c + 3][2 * r + e]};
  }
  __syncthreads();
  shares.wait();
  for (int i = thread; i < heads * Shares::fours; i += threads) {
    const int own_head = i / Shares::fours, four = i % Shares::fours;
    float2 whole;
    const float4 sum = join_values(
        Warps, [&](int v) { return of_warps[v][own_head]; },
        [&](int v) {
          return *reinterpret_cast<const float4*>(joined + (v * heads + own_head) * pitch + four * 4);
        },
        whole);
    shares.put(own_head, four, sum, whole);
  }
  shares.join();
}

/// Blocks that have a multiprocessor each anyway are twice as wide: what a row takes is then how often its
/// blocks' warps go round.
constexpr int narrow_warps = 4, wide_warps = 8, wide_blocks_max = 64;

template <bool Writes, int Warps>
auto kernel_of(int width) {
  return width == 64 ? attend_rows<64, Writes, Warps> : attend_rows<128, Writes, Warps>;
}

template <int Warps>
void launch_rows(const Attention& a, const RowTables& tables, dim3 grid, cudaStream_t stream) {
  const auto kernel = a.write ? kernel_of<true, Warps>(a.key_width) : kernel_of<false, Warps>(a.key_width);
  constexpr auto most = static_cast<int>(sums_bytes(128, Warps, heads_max));
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most),
        "cudaFuncSetAttribute");
  launch_clusters("attend_rows", kernel, grid, a.cluster, Warps * 32,
                  sums_bytes(a.key_width, Warps, std::min(a.heads / a.kv_heads, heads_max)), stream, a,
                  a.write ? *a.write : GroupedWrite{}, tables);
}

}  // namespace

ClusterRoom cluster_room_of_rows() {
  ClusterRoom room;
  room.fill(std::numeric_limits<int>::max());
  const auto take = [&](auto kernel, int width, int warps, int blocks_max) {
    const ClusterRoom own = cluster_room(kernel, warps * 32, sums_bytes(width, warps, heads_max));
    for (size_t i = 1; i < room.size(); i++)
      if (own[i] * static_cast<int>(i) < blocks_max) room[i] = std::min(room[i], own[i]);
  };
  for (const int width : {64, 128}) {
    constexpr int any = std::numeric_limits<int>::max();
    take(kernel_of<false, narrow_warps>(width), width, narrow_warps, any);
    take(kernel_of<true, narrow_warps>(width), width, narrow_warps, any);
    take(kernel_of<false, wide_warps>(width), width, wide_warps, wide_blocks_max);
    take(kernel_of<true, wide_warps>(width), width, wide_warps, wide_blocks_max);
  }
  return room;
}

void attend_few(const Attention& a, const RowTables& tables, cudaStream_t stream) {
  if (a.latent) return attend_latent(a, tables, stream);
  const int tiles = (a.heads / a.kv_heads + heads_max - 1) / heads_max;
  const dim3 grid(grid_of(a.rows.max), static_cast<unsigned>(a.kv_heads * tiles),
                  static_cast<unsigned>(a.parts));
  grid.x* grid.y* grid.z <= wide_blocks_max ? launch_rows<wide_warps>(a, tables, grid, stream)
                                            : launch_rows<narrow_warps>(a, tables, grid, stream);
}

}  // namespace convoy::cuda
