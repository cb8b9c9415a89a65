// Products of experts (gemm_stream.hpp): all tiles of a step's visits in one launch.

#include <algorithm>

#include "gpu/cuda/gemm_stream.cuh"
#include "gpu/cuda/gemm_stream.hpp"

namespace convoy::cuda {
namespace {

/// With many rows activations fill the shared memory, so a block has the multiprocessor to itself, and as
/// many loads under way as two others.
constexpr int blocks_of(int eights) { return eights == 1 ? 2 : 1; }
/// Chunks of columns that a warp has under way. Two are multiplied at once.
constexpr int ring_of(int eights) { return eights == 4 ? 10 : eights == 2 ? 16 : 8; }
constexpr int at_once = 2;
constexpr int64_t ring_bytes(int eights) {
  return int64_t{stream_threads} * ring_of(eights) * 2 * sizeof(uint4);
}

struct ExpertArgs {
  Product product, up;  // up: as large as product's, if they are gated
  const __nv_bfloat16* in;
  int64_t in_pitch;
  __nv_bfloat16* gated;
  int64_t out_pitch;
  Visits visits;
};

__device__ __forceinline__ Matrix weights_of(const Product& product, const Visits& visits, int expert) {
  return expert < visits.experts ? of_expert(product.weight, expert)
                                 : of_expert(product.shared, expert - visits.experts);
}

/// The tiles of a launch. A warp asks for as many as it has lanes while it asks how many there are. Past the
/// first-level cache, which may hold the last step's.
class Tiles {
 public:
  __device__ explicit Tiles(const Visits& visits)
      : all_(visits.tiles), own_(load(min(static_cast<int>(threadIdx.x) % 32, visits.tiles_max - 1))) {}
  /// All lanes ask for the same one.
  __device__ Tile operator[](int index) const {
    if (index >= 32) return load(index);
    return {__shfl_sync(0xffffffffu, own_.expert, index), __shfl_sync(0xffffffffu, own_.first, index),
            __shfl_sync(0xffffffffu, own_.rows, index)};
  }

 private:
  __device__ Tile load(int index) const {
    const Tile* const tile = all_ + index;
    return {__ldcg(&tile->expert), __ldcg(&tile->first), __ldcg(&tile->rows)};
  }
  const Tile* all_;
  Tile own_;
};

/// A tile of rows, and the outputs of them that are a block's.
struct Segment {
  Tile tile;
  int first, count;
  __device__ Segment(const Tiles& tiles, int outputs, int begin, int end)
      : tile(tiles[begin / outputs]), first(begin % outputs), count(min(end - begin, outputs - first)) {}
  /// Of a warp's even share: where it begins, and how many.
  __device__ int own_first(int warp) const { return first + count * warp / stream_warps; }
  __device__ int own_count(int warp) const {
    return first + count * (warp + 1) / stream_warps - own_first(warp);
  }
};
/// Outputs of a round: as many in each as leave none short.
__device__ __forceinline__ int per_round(int count, int rows_max) {
  const int rounds = (count + rows_max - 1) / rows_max;
  return rounds > 0 ? (count + rounds - 1) / rounds : 0;
}

/// A block takes an even share of all tiles' outputs, a warp an even share of that, one tile after the other.
/// The rows of a tile lie in shared memory while its weights pass by, those of the next tile under way
/// already. A warp has whole rows of weights, sixteen at once (gated: eight of the gate's and the same of
/// `up`), so nobody waits for anybody within a tile. A row's bits do not depend on how many rows there are.
/// Bytes: each tile's weights; operations: 2 · rows · outputs · columns a tile.
template <int Eights, bool Gated>
__global__ void __launch_bounds__(stream_threads, blocks_of(Eights)) stream_experts(const ExpertArgs args) {
  constexpr int ring = ring_of(Eights), rows_max = Gated ? 8 : 16;
  static_assert(ring % at_once == 0);
  extern __shared__ uint4 dynamic[];
  // [ring][low, high][threads]: what a thread copies it reads itself, so nobody waits for another's.
  uint4* const own_ring = dynamic + threadIdx.x;
  auto* const staged = reinterpret_cast<__nv_bfloat16*>(dynamic + ring_bytes(Eights) / sizeof(uint4));
  if (!args.visits.listed_before) wait_for_previous();
  let_next_begin();  // so what comes next finds the list there
  const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  const int group = lane / 4, quarter = lane % 4;  // a row of the weights; eight columns of 32
  const int outputs = args.product.weight.rows, columns = args.product.weight.columns;
  const Tiles tiles(args.visits);
  const int64_t all = int64_t{__ldcg(args.visits.tile_count)} * outputs;
  int begin = static_cast<int>(all * blockIdx.x / gridDim.x);
  const int end = static_cast<int>(all * (blockIdx.x + 1) / gridDim.x);
  if (begin >= end) return wait_for_previous();

  // What is loaded next: of a tile `left` outputs of this warp's, `load_round` at once; and where the tile
  // behind begins. What lies behind the last column is zeros.
  const int own_chunks = (columns - quarter * chunk_values + 31) / 32,
            chunks = ((columns + 31) / 32 + at_once - 1) / at_once * at_once;
  const std::byte *low_from = nullptr, *high_from = nullptr;
  int64_t pitch = 0;
  int left = 0, load_round = 0, behind = begin, next = 0;
  bool low_there = false, high_there = false;
  const auto begin_round = [&] {
    while (left == 0 && behind < end) {
      const Segment segment(tiles, outputs, behind, end);
      const Matrix weight = weights_of(args.product, args.visits, segment.tile.expert);
      const int64_t at = segment.own_first(warp) + group;
      pitch = weight.pitch, low_from = weight.data + at * pitch + quarter * 16;
      if constexpr (Gated)
        high_from = weights_of(args.up, args.visits, segment.tile.expert).data + at * pitch + quarter * 16;
      else
        high_from = low_from + 8 * pitch;
      left = segment.own_count(warp), load_round = per_round(left, rows_max), behind += segment.count;
    }
    const int count = min(load_round, left);
    low_there = group < count, high_there = group + (Gated ? 0 : 8) < count;
    left -= count, next = 0;
  };
  int fetched = 0, read = 0;  // places of the ring
  const auto turn = [](int& place) {
    const int now = place;
    place = now + 1 == ring ? 0 : now + 1;
    return now;
  };
  const auto fetch = [&] {
    uint4* const to = own_ring + turn(fetched) * 2 * stream_threads;
    const bool there = next < own_chunks;
    copy_async_or_zeros(to, low_from + next * 64, there && low_there);
    copy_async_or_zeros(to + stream_threads, high_from + next * 64, there && high_there);
    end_copies();
    if (++next < chunks) return;
    low_from += load_round * pitch, high_from += load_round * pitch;
    begin_round();
  };
  begin_round();
  for (int i = 0; i < ring; i++) fetch();
  wait_for_previous();

  const int staged_row = staged_pitch(columns);
  while (begin < end) {
    const Segment own(tiles, outputs, begin, end);
    begin += own.count;
    const int chunks_of_row = columns / chunk_values, rows = own.tile.rows;
    __syncthreads();  // the last tile's rows were read
    for (int i = thread; i < rows * chunks_of_row; i += stream_threads) {
      const int row = i / chunks_of_row, column = i % chunks_of_row * chunk_values,
                visit = own.tile.first + row;
      *reinterpret_cast<uint4*>(staged + row * staged_row + column) = *reinterpret_cast<const uint4*>(
          args.in + (args.visits.rows ? args.visits.rows[visit] : visit) * args.in_pitch + column);
    }
    __syncthreads();
    // Rows behind the last are computed as that one is, and not kept.
    const __nv_bfloat16* in[Eights];
#pragma unroll
    for (int j = 0; j < Eights; j++)
      in[j] = staged + min(j * 8 + group, rows - 1) * staged_row + quarter * chunk_values;
    const int own_first = own.own_first(warp), count = own.own_count(warp),
              round = per_round(count, rows_max);
    for (int at = 0; at < count; at += round) {
      float sums[Eights][4] = {};
      for (int chunk = 0; chunk < chunks; chunk += at_once) {
        wait_for_copies<ring - at_once>();
        uint4 low[at_once], high[at_once], x[at_once][Eights];
#pragma unroll
        for (int i = 0; i < at_once; i++) {
          const uint4* const from = own_ring + turn(read) * 2 * stream_threads;
          low[i] = from[0], high[i] = from[stream_threads];
#pragma unroll
          for (int j = 0; j < Eights; j++)
            x[i][j] = chunk + i < own_chunks ? *reinterpret_cast<const uint4*>(in[j] + (chunk + i) * 32)
                                             : uint4{0, 0, 0, 0};
        }
#pragma unroll
        for (int i = 0; i < at_once; i++) {
          const uint4 &l = low[i], &h = high[i];
#pragma unroll
          for (int j = 0; j < Eights; j++) mma(sums[j], {l.x, h.x, l.y, h.y}, x[i][j].x, x[i][j].y);
#pragma unroll
          for (int j = 0; j < Eights; j++) mma(sums[j], {l.z, h.z, l.w, h.w}, x[i][j].z, x[i][j].w);
        }
#pragma unroll
        for (int i = 0; i < at_once; i++) fetch();
      }
      // A thread has rows group and group + 8 of the weights, each by two rows of activations.
      const int here = min(round, count - at);
#pragma unroll
      for (int j = 0; j < Eights; j++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
          const int row = j * 8 + quarter * 2 + e;
          if (row >= rows) continue;
          const int64_t to = (own.tile.first + row) * args.out_pitch + own_first + at + group;
          if constexpr (Gated) {
            if (group < here) args.gated[to] = gated_bf16(sums[j][e], sums[j][2 + e]);
          } else {
            if (group < here) args.product.out[to] = sums[j][e];
            if (group + 8 < here) args.product.out[to + 8] = sums[j][2 + e];
          }
        }
    }
  }
  wait_for_copies<0>();
}

template <int Eights>
void launch_experts(const ExpertArgs& args, size_t shared, cudaStream_t stream) {
  const auto kernel = args.gated ? stream_experts<Eights, true> : stream_experts<Eights, false>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_memory_max()),
        "cudaFuncSetAttribute");
  launch("experts' products", kernel, static_cast<unsigned>(blocks_of(Eights) * multiprocessors()),
         stream_threads, shared, stream, args);
}

}  // namespace

int stream_experts_tile(int64_t rows, int64_t columns) {
  if (columns % chunk_values != 0) return 0;
  const int64_t most = shared_memory_max();
  const auto bytes = [&](int height) { return ring_bytes(height / 8) + staged_bytes(columns, height); };
  int height = stream_tile(rows);
  while (height > 8 && bytes(height) > most) height /= 2;
  return bytes(height) <= most ? height : 0;
}

void stream_visits(const StreamCall& call, const Visits& visits, int tile_rows, cudaStream_t cuda_stream) {
  const ExpertArgs args{.product = call.product,
                        .up = call.up ? *call.up : Product{},
                        .in = static_cast<const __nv_bfloat16*>(call.in.data),
                        .in_pitch = call.in.pitch,
                        .gated = call.up ? static_cast<__nv_bfloat16*>(call.gated.data) : nullptr,
                        .out_pitch = call.up ? call.gated.pitch : call.product.pitch,
                        .visits = visits};
  const auto shared =
      static_cast<size_t>(ring_bytes(tile_rows / 8) + staged_bytes(args.product.weight.columns, tile_rows));
  if (tile_rows == 8)
    launch_experts<1>(args, shared, cuda_stream);
  else if (tile_rows == 16)
    launch_experts<2>(args, shared, cuda_stream);
  else
    launch_experts<4>(args, shared, cuda_stream);
}

}  // namespace convoy::cuda
