#include "gpu/cuda/attention_tensor.cuh"
#include "gpu/cuda/attention_tensor.hpp"

namespace convoy::cuda {
namespace {

constexpr int warps = 4, threads = warps * 32;
constexpr int heads_max = 16;  // of a block: a tile of the tensor cores

__device__ __forceinline__ uint32_t low_halves(uint32_t a, uint32_t b) { return __byte_perm(a, b, 0x5410); }
__device__ __forceinline__ uint32_t high_halves(uint32_t a, uint32_t b) { return __byte_perm(a, b, 0x7632); }

/// A block attends with up to 16 queries of one key over its share of a row's positions, each warp sixteen at
/// a time. Keys and values go from memory into registers as they lie, sixteen bytes a thread: which of a
/// head's values meet in which product does not matter to a score, and a weighted sum's columns may be any.
/// Bytes: keys and values once; operations: 4 · 16 · D a position.
template <int D>
__global__ void __launch_bounds__(threads, 2) attend_rows(const Attention a, const RowTables tables) {
  constexpr int key_loads = D / 32, value_loads = D / 64;
  __shared__ float joined[warps][heads_max][D];
  __shared__ float warp_largest[warps][heads_max], warp_sums[warps][heads_max];
  follow_previous();
  const int row = static_cast<int>(blockIdx.x);
  if (!has_row(a.rows, row)) return;
  const int group_size = a.heads / a.kv_heads, tiles = (group_size + heads_max - 1) / heads_max;
  const int kv_head = static_cast<int>(blockIdx.y) / tiles, tile = static_cast<int>(blockIdx.y) % tiles;
  const int head = kv_head * group_size + tile * heads_max,
            heads = min(heads_max, group_size - tile * heads_max);
  const int part = static_cast<int>(blockIdx.z);
  const int seen = tables.position[row] + 1;
  const Share share = share_of(seen, a.parts, part);
  if (share.begin >= share.end) return;
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int group = lane / 4, quarter = lane % 4;

  uint32_t q[key_loads][2][4];  // of rows group and group + 8: eight values each
#pragma unroll
  for (int i = 0; i < key_loads; i++)
#pragma unroll
    for (int r = 0; r < 2; r++) {
      float values[8];
      load_eight(a.q + row * a.q_pitch + (head + min(group + 8 * r, heads - 1)) * D + i * 32 + quarter * 8,
                 values);
#pragma unroll
      for (int v = 0; v < 4; v++)
        q[i][r][v] = two_bf16(values[2 * v] * (a.scale * log2_e), values[2 * v + 1] * (a.scale * log2_e));
    }

  const uint32_t* const table = tables.table_of(row);
  const auto* const all_keys = static_cast<const __nv_bfloat16*>(a.keys.data) + kv_head * D;
  const auto* const all_values = static_cast<const __nv_bfloat16*>(a.values.data) + kv_head * D;
  uint4 keys[2][key_loads], values[4][value_loads];
  // Positions of a thread: a key's group and group + 8; a value's 2 · quarter, the next, and 8 further.
  const auto fetch_keys = [&](int first) {
#pragma unroll
    for (int n = 0; n < 2; n++) {
      const int position = min(first + n * 8 + group, share.end - 1);
      const __nv_bfloat16* const from = all_keys + cache_index(table, position, a.keys.width) + quarter * 8;
#pragma unroll
      for (int i = 0; i < key_loads; i++) keys[n][i] = *reinterpret_cast<const uint4*>(from + i * 32);
    }
  };
  const auto fetch_values = [&](int first) {
#pragma unroll
    for (int n = 0; n < 4; n++) {
      const int position = min(first + quarter * 2 + n % 2 + n / 2 * 8, share.end - 1);
      const __nv_bfloat16* const from = all_values + cache_index(table, position, a.values.width) + group * 8;
#pragma unroll
      for (int i = 0; i < value_loads; i++) values[n][i] = *reinterpret_cast<const uint4*>(from + i * 64);
    }
  };

  TwoRows rows;
  float sums[value_loads][8][4] = {};
  int first = share.begin + warp * 16;
  if (first < share.end) fetch_keys(first), fetch_values(first);
  for (; first < share.end; first += warps * 16) {
    const int next = first + warps * 16;
    float scores[2][4] = {};
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
      for (int i = 0; i < key_loads; i++) {
        const uint32_t(&low)[4] = q[i][0], (&high)[4] = q[i][1];
        mma(scores[n], {low[0], high[0], low[1], high[1]}, keys[n][i].x, keys[n][i].y);
        mma(scores[n], {low[2], high[2], low[3], high[3]}, keys[n][i].z, keys[n][i].w);
      }
    if (next < share.end) fetch_keys(next);
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
    if (next < share.end) fetch_values(next);
  }

#pragma unroll
  for (int r = 0; r < 2; r++) {
    const float sum = quad_sum(rows.sums[r]);
    if (quarter == 0)
      warp_largest[warp][group + 8 * r] = rows.largest[r], warp_sums[warp][group + 8 * r] = sum;
#pragma unroll
    for (int i = 0; i < value_loads; i++)
#pragma unroll
      for (int c = 0; c < 8; c++)
#pragma unroll
        for (int e = 0; e < 2; e++)
          joined[warp][group + 8 * r][i * 64 + (quarter * 2 + e) * 8 + c] = sums[i][c][2 * r + e];
  }
  __syncthreads();
  for (int i = thread; i < heads * D; i += threads) {
    const int own = i / D, column = i % D;
    float largest = warp_largest[0][own];  // the first warp has positions
#pragma unroll
    for (int w = 1; w < warps; w++) largest = fmaxf(largest, warp_largest[w][own]);
    float sum = 0, value = 0;
#pragma unroll
    for (int w = 0; w < warps; w++) {
      const float scale = exp2f(warp_largest[w][own] - largest);
      sum = fmaf(warp_sums[w][own], scale, sum), value = fmaf(joined[w][own][column], scale, value);
    }
    if (a.parts == 1) {
      static_cast<__nv_bfloat16*>(a.out.data)[row * a.out.pitch + (head + own) * D + column] =
          __float2bfloat16_rn(value / sum);
    } else {
      float* const to =
          a.partial + ((static_cast<int64_t>(row) * a.heads + head + own) * a.parts + part) * share_pitch(D);
      if (column == 0) to[D] = largest, to[D + 1] = sum;
      to[column] = value;
    }
  }
}

constexpr int join_threads = 256;

/// Joins a row's shares: a block a row and head. A thread has four values of every so manieth share.
__global__ void __launch_bounds__(join_threads) join_shares(const Attention a, const RowTables tables) {
  __shared__ float scales[shares_max], whole;
  __shared__ float4 sums[join_threads];
  follow_previous();
  const int row = static_cast<int>(blockIdx.x), head = static_cast<int>(blockIdx.y);
  if (!has_row(a.rows, row)) return;
  const int seen = tables.position[row] + 1, size = share_size(seen, a.parts),
            shares = (seen + size - 1) / size;
  const int pitch = share_pitch(a.value_width), thread = static_cast<int>(threadIdx.x);
  const float* const from = a.partial + (static_cast<int64_t>(row) * a.heads + head) * a.parts * pitch;
  if (thread < 32) {
    float largest[shares_max / 32], own_sums[shares_max / 32], sum = 0, most = -INFINITY;
#pragma unroll
    for (int i = 0; i < shares_max / 32; i++) {
      const float* const of_share = from + (thread + 32 * i) * pitch + a.value_width;
      const bool there = thread + 32 * i < shares;
      largest[i] = there ? of_share[0] : -INFINITY, own_sums[i] = there ? of_share[1] : 0;
      most = fmaxf(most, largest[i]);
    }
#pragma unroll
    for (int apart = 16; apart > 0; apart /= 2) most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, apart));
#pragma unroll
    for (int i = 0; i < shares_max / 32; i++) {
      const float scale = exp2f(largest[i] - most);
      scales[thread + 32 * i] = scale, sum = fmaf(own_sums[i], scale, sum);
    }
    sum = warp_sum(sum);
    if (thread == 0) whole = sum;
  }
  const int fours = a.value_width / 4, groups = join_threads / fours, group = thread / fours,
            four = thread % fours;
  __syncthreads();
  float4 sum{};
  if (group < groups) {
#pragma unroll 4
    for (int share = group; share < shares; share += groups) {
      const float4 v = *reinterpret_cast<const float4*>(from + share * pitch + four * 4);
      const float scale = scales[share];
      sum.x = fmaf(v.x, scale, sum.x), sum.y = fmaf(v.y, scale, sum.y);
      sum.z = fmaf(v.z, scale, sum.z), sum.w = fmaf(v.w, scale, sum.w);
    }
  }
  sums[thread] = sum;
  __syncthreads();
  if (group != 0) return;
  for (int g = 1; g < groups; g++) {
    const float4& v = sums[g * fours + four];
    sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
  }
  const float4 out{sum.x / whole, sum.y / whole, sum.z / whole, sum.w / whole};
  const int64_t at = row * a.out.pitch + head * a.value_width + four * 4;
  if (a.out.type == Activations::bf16)
    *reinterpret_cast<uint2*>(static_cast<__nv_bfloat16*>(a.out.data) + at) = {two_bf16(out.x, out.y),
                                                                               two_bf16(out.z, out.w)};
  else
    *reinterpret_cast<float4*>(static_cast<float*>(a.out.data) + at) = out;
}

}  // namespace

void attend_latent(const Attention& attention, const RowTables& tables, cudaStream_t stream);

void attend_few(const Attention& a, const RowTables& tables, cudaStream_t stream) {
  if (a.latent) {
    attend_latent(a, tables, stream);
  } else {
    const int tiles = (a.heads / a.kv_heads + heads_max - 1) / heads_max;
    const dim3 grid(grid_of(a.rows.max), static_cast<unsigned>(a.kv_heads * tiles),
                    static_cast<unsigned>(a.parts));
    launch("attend_rows", a.key_width == 64 ? attend_rows<64> : attend_rows<128>, grid, threads, 0, stream, a,
           tables);
  }
  if (a.parts == 1) return;
  launch("join_shares", join_shares, dim3(grid_of(a.rows.max), static_cast<unsigned>(a.heads)), join_threads,
         0, stream, a, tables);
}

}  // namespace convoy::cuda
