#include "gpu/cuda/gemm_stream.hpp"

#include <algorithm>

#include "gpu/cuda/gemm_args.cuh"
#include "gpu/cuda/mma.cuh"

namespace convoy::cuda {
namespace {

constexpr int warps = 8, threads = warps * 32, blocks_of_multiprocessor = 2;
/// Pairs of 16-byte loads of weights that a thread has under way: up to 128 KB a multiprocessor, twice what
/// saturates the memory, so that blocks whose tiles are not full do too. Less where registers are short.
constexpr int ring_of(int eights) { return eights == 1 ? 8 : eights == 2 ? 6 : 3; }
/// Columns that a warp takes at once: four threads eight each.
constexpr int warp_columns = 32;
constexpr int tile_outputs = 16;
/// Tiles of the tensor cores that a warp has at once: with many rows of activations, what is read of these
/// would weigh more than the weights.
constexpr int tiles_of(int eights) { return eights == 4 ? 2 : 1; }
/// Blocks of all experts' tiles together: several waves, since tiles differ.
constexpr int expert_blocks = 2048;

struct StreamArgs {
  Matrix weight, up;  // up: as large as weight, if the products are gated
  const float *bias, *up_bias;
  const __nv_bfloat16* in;
  int64_t in_pitch;
  float* out;
  __nv_bfloat16* gated;
  int64_t out_pitch;
  RowRange rows;
  Visits visits;
};

__device__ __forceinline__ uint4 load_weights(const std::byte* from) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from));
  return v;
}

/// Where it is written: loads of a whole round ahead would take the registers of the ring.
__device__ __forceinline__ uint4 load_activations(const __nv_bfloat16* from) {
  uint4 v;
  asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from));
  return v;
}

/// A block takes an even share of the outputs, in rounds of one or two tiles of at most 16; its warps take
/// turns at the columns, and their sums are joined in one order. Gated: a tile is eight rows of the gate and
/// the same of `up`.
/// Which columns meet in which product of the tensor cores does not matter to a sum, so threads load sixteen
/// bytes as they lie: of a warp's 32 columns each of four threads has eight.
/// A row's bits do not depend on how many rows there are.
/// Bytes: the weights' once; operations: 2 · rows · outputs · columns.
template <int Eights, bool Gated>
__global__ void __launch_bounds__(threads, blocks_of_multiprocessor) stream_gemm(const StreamArgs args) {
  constexpr int ring = ring_of(Eights), at_once = tiles_of(Eights);
  constexpr int tile_rows = Gated ? tile_outputs / 2 : tile_outputs, outputs_max = tile_rows * at_once;
  constexpr int halves = at_once == 1 ? 2 : 1;
  __shared__ float4 parts[halves][warps][at_once][Eights][32];
  let_next_begin();
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int group = lane / 4, quarter = lane % 4;  // a row of the tile's weights; eight columns of 32
  Tile rows;
  Matrix weight = args.weight, up = args.up;
  if (args.visits.tiles) {
    wait_for_previous();
    const int index = static_cast<int>(blockIdx.y);
    if (index >= *args.visits.tile_count) return;
    rows = args.visits.tiles[index];
    weight.data += rows.expert * weight.expert_bytes;
    if (Gated) up.data += rows.expert * up.expert_bytes;
  } else {
    const int first = static_cast<int>(blockIdx.y) * Eights * 8;
    rows = {0, first,
            min(min(Eights * 8, args.rows.max - first), *args.rows.count - args.rows.first - first)};
    if (rows.rows <= 0) return wait_for_previous();
  }

  const int64_t all = weight.rows;
  const int begin = static_cast<int>(all * blockIdx.x / gridDim.x),
            count = static_cast<int>(all * (blockIdx.x + 1) / gridDim.x) - begin;
  const int tiles = (count + outputs_max - 1) / outputs_max;
  const int per_tile = tiles > 0 ? (count + tiles - 1) / tiles : 0;
  // Chunks of columns that this thread has in a tile. All threads count them in whole rounds of the ring, and
  // what lies behind a thread's last one is zeros.
  constexpr int stride = warps * warp_columns;
  const int columns = padded(weight.columns), first_column = warp * warp_columns + quarter * chunk_values;
  const int chunks = ((columns + stride - 1) / stride + ring - 1) / ring * ring;
  const int own_chunks = (columns - first_column + stride - 1) / stride;

  // Where the ring is: the next chunk to be loaded, and of which tile.
  int next_tile = 0, next_chunk = 0;
  bool low_there[at_once] = {}, high_there[at_once] = {};
  const std::byte* from = nullptr;
  const int64_t to_high = Gated ? up.data - weight.data : 8 * weight.pitch,
                to_next = tile_rows * weight.pitch;
  const auto begin_tile = [&] {
    const int at = next_tile * per_tile, here = next_tile < tiles ? min(per_tile, count - at) : 0;
#pragma unroll
    for (int m = 0; m < at_once; m++) {
      low_there[m] = group + m * tile_rows < here;
      high_there[m] = group + m * tile_rows + (Gated ? 0 : 8) < here;
    }
    from = weight.data + (begin + at + group) * weight.pitch + first_column * 2;
  };
  const auto fetch = [&](uint4(&low)[at_once], uint4(&high)[at_once]) {
    const bool there = next_chunk < own_chunks;
#pragma unroll
    for (int m = 0; m < at_once; m++) {
      low[m] = there && low_there[m] ? load_weights(from + m * to_next) : uint4{0, 0, 0, 0};
      high[m] = there && high_there[m] ? load_weights(from + m * to_next + to_high) : uint4{0, 0, 0, 0};
    }
    from += stride * 2, next_chunk++;
  };
  const auto end_round = [&] {
    if (next_chunk == chunks) next_chunk = 0, next_tile++, begin_tile();
  };
  uint4 low[ring][at_once], high[ring][at_once];
  begin_tile();
#pragma unroll
  for (int i = 0; i < ring; i++) fetch(low[i], high[i]);
  end_round();
  if (!args.visits.tiles) wait_for_previous();

  // Rows behind the tile's last are computed as that one is, and not kept.
  uint32_t in[Eights];
#pragma unroll
  for (int j = 0; j < Eights; j++) {
    const int visit = rows.first + min(j * 8 + group, rows.rows - 1);
    in[j] = static_cast<uint32_t>((args.visits.rows ? args.visits.rows[visit] : visit) * args.in_pitch);
  }

  for (int tile = 0; tile < tiles; tile++) {
    float sums[at_once][Eights][4] = {};
    const __nv_bfloat16* x_from = args.in + first_column;
    for (int chunk = 0; chunk < chunks; chunk += ring) {
#pragma unroll
      for (int i = 0; i < ring; i++) {
#pragma unroll
        for (int j = 0; j < Eights; j++) {
          const uint4 x = chunk + i < own_chunks ? load_activations(x_from + in[j]) : uint4{0, 0, 0, 0};
#pragma unroll
          for (int m = 0; m < at_once; m++) {
            const uint4 &l = low[i][m], &h = high[i][m];
            mma(sums[m][j], {l.x, h.x, l.y, h.y}, x.x, x.y);
            mma(sums[m][j], {l.z, h.z, l.w, h.w}, x.z, x.w);
          }
        }
        x_from += stride;
        fetch(low[i], high[i]);
      }
      end_round();
    }
    float4(&own)[warps][at_once][Eights][32] = parts[tile % halves];
#pragma unroll
    for (int m = 0; m < at_once; m++)
#pragma unroll
      for (int j = 0; j < Eights; j++)
        own[warp][m][j][lane] = {sums[m][j][0], sums[m][j][1], sums[m][j][2], sums[m][j][3]};
    // What is read below was written before; with two halves, what is written next was read before.
    __syncthreads();
    const int at = tile * per_tile, here = min(per_tile, count - at);
    // Values of a thread's float4: rows group and group + 8 of the weights, each by two rows of activations.
    constexpr int elements = Gated ? 2 : 4;
    for (int i = thread; i < at_once * Eights * 32 * elements; i += threads) {
      const int element = i % elements, of_lane = i / elements % 32, j = i / elements / 32 % Eights,
                m = i / elements / 32 / Eights;
      const int output = m * tile_rows + of_lane / 4 + element / 2 * 8;
      const int row = j * 8 + of_lane % 4 * 2 + element % 2;
      float sum = 0, up_sum = 0;
#pragma unroll
      for (int w = 0; w < warps; w++) {
        const float* const values = reinterpret_cast<const float*>(&own[w][m][j][of_lane]);
        sum += values[element];
        if constexpr (Gated) up_sum += values[element + 2];
      }
      if (output >= here || row >= rows.rows) continue;
      const int of_all = begin + at + output;
      if (args.bias) sum += args.bias[of_all];
      if constexpr (Gated) {
        if (args.up_bias) up_sum += args.up_bias[of_all];
        args.gated[(rows.first + row) * args.out_pitch + of_all] =
            __float2bfloat16_rn(sum / (1.0f + expf(-sum)) * up_sum);
      } else {
        args.out[(rows.first + row) * args.out_pitch + of_all] = sum;
      }
    }
    if (halves == 1) __syncthreads();
  }
}

template <int Eights>
void launch_stream(const StreamArgs& args, dim3 grid, cudaStream_t stream) {
  launch("a product", args.up.data ? stream_gemm<Eights, true> : stream_gemm<Eights, false>, grid, threads, 0,
         stream, args);
}

}  // namespace

void stream(const StreamCall& call, cudaStream_t cuda_stream) {
  StreamArgs args{.weight = call.product.weight,
                  .up = call.up ? call.up->weight : Matrix{},
                  .bias = call.product.bias,
                  .up_bias = call.up ? call.up->bias : nullptr,
                  .in = static_cast<const __nv_bfloat16*>(call.in.data),
                  .in_pitch = call.in.pitch,
                  .out = call.product.out,
                  .gated = static_cast<__nv_bfloat16*>(call.gated.data),
                  .out_pitch = call.up ? call.gated.pitch : call.product.pitch,
                  .rows = call.rows,
                  .visits = call.visits ? *call.visits : Visits{}};
  const int height = call.visits ? call.tile_rows : stream_tile(call.rows.max);
  const int tiles = call.visits ? call.visits->tiles_max : (call.rows.max + height - 1) / height;
  const int outputs = args.weight.rows;
  const int blocks = call.visits ? std::clamp(expert_blocks / std::max(tiles, 1), 1, (outputs + 15) / 16)
                                 : std::min(blocks_of_multiprocessor * multiprocessors(), outputs);
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(tiles));
  if (height == 8)
    launch_stream<1>(args, grid, cuda_stream);
  else if (height == 16)
    launch_stream<2>(args, grid, cuda_stream);
  else
    launch_stream<4>(args, grid, cuda_stream);
}

}  // namespace convoy::cuda
