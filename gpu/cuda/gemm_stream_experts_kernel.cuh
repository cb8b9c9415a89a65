#pragma once
// The kernel of experts' products (gemm_stream.hpp): all tiles of a step's visits in one launch; and its
// launches for one type of weights. gemm_stream_experts_bf16.cu and its neighbours compile them.

#include <algorithm>

#include "gpu/cuda/gemm_stream.cuh"
#include "gpu/cuda/gemm_stream.hpp"

namespace convoy::cuda {

/// With many rows activations fill the shared memory, so a block has the multiprocessor to itself, and as
/// many loads under way as two others.
constexpr int experts_blocks_of(int eights) { return eights == 1 ? 2 : 1; }
/// Chunks of columns that a warp has under way. Two are multiplied at once. Scales take room of their own.
constexpr int experts_ring_of(DType type, int eights) {
  if (type == DType::bf16) return eights == 4 ? 10 : eights == 2 ? 16 : 8;
  return eights == 4 ? 8 : eights == 2 ? 12 : 6;
}
constexpr int at_once = 2;
constexpr int64_t experts_ring_bytes(DType type, int eights) {
  const int64_t scales = type == DType::bf16 ? 0 : sizeof(uint32_t);
  return stream_threads * experts_ring_of(type, eights) * 2 * (int64_t{sizeof(uint4)} + scales);
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
template <DType W, int Eights, bool Gated>
__global__ void __launch_bounds__(stream_threads, experts_blocks_of(Eights))
    stream_experts(const ExpertArgs args) {
  constexpr bool in_units = W != DType::bf16;
  constexpr int ring = experts_ring_of(W, Eights), rows_max = Gated ? 8 : 16,
                chunk_columns = in_units ? unit_values(W) : 32;
  static_assert(ring % at_once == 0);
  constexpr int units_of_scales = [] {
    if constexpr (in_units)
      return StreamType<W>::units_of_scales;
    else
      return 1;
  }();
  extern __shared__ uint4 dynamic[];
  // [ring][low, high][threads]: what a thread copies it reads itself, so nobody waits for another's.
  uint4* const own_ring = dynamic + threadIdx.x;
  auto* const own_scales = reinterpret_cast<uint32_t*>(dynamic + ring * 2 * stream_threads) + threadIdx.x;
  auto* const staged =
      reinterpret_cast<__nv_bfloat16*>(dynamic + experts_ring_bytes(W, Eights) / sizeof(uint4));
  if (!args.visits.listed_before) wait_for_previous();
  let_next_begin();  // so what comes next finds the list there
  const int thread = static_cast<int>(threadIdx.x), warp = __shfl_sync(0xffffffffu, thread / 32, 0),
            lane = thread % 32;
  const int group = lane / 4, quarter = lane % 4;  // a row of the weights; sixteen bytes of 64
  const int outputs = args.product.weight.rows, columns = args.product.weight.columns;
  const Tiles tiles(args.visits);
  const int64_t all = int64_t{__ldcg(args.visits.tile_count)} * outputs;
  int begin = static_cast<int>(all * blockIdx.x / gridDim.x);
  const int end = static_cast<int>(all * (blockIdx.x + 1) / gridDim.x);
  if (begin >= end) return wait_for_previous();

  // What is loaded next: of a tile `left` outputs of this warp's, `load_round` at once; and where the tile
  // behind begins. What lies behind the last column is zeros.
  const int own_chunks = in_units ? (columns + chunk_columns - 1) / chunk_columns
                                  : (columns - quarter * chunk_values + 31) / 32,
            chunks = ((columns + chunk_columns - 1) / chunk_columns + at_once - 1) / at_once * at_once;
  const std::byte *low_from = nullptr, *high_from = nullptr;
  const std::byte *low_scales = nullptr, *high_scales = nullptr;
  Matrix low_weight, high_weight;  // whose rows those are
  int low_row = 0;
  int64_t pitch = 0;
  int left = 0, load_round = 0, behind = begin, next = 0;
  bool low_there = false, high_there = false, has_scales = false;
  if constexpr (in_units) has_scales = StreamType<W>::has_scales(args.product.weight);
  const auto begin_round = [&] {
    while (left == 0 && behind < end) {
      const Segment segment(tiles, outputs, behind, end);
      low_weight = weights_of(args.product, args.visits, segment.tile.expert);
      high_weight = Gated ? weights_of(args.up, args.visits, segment.tile.expert) : low_weight;
      low_row = segment.own_first(warp) + group;
      pitch = low_weight.pitch, low_from = low_weight.data + low_row * pitch + quarter * 16;
      high_from = Gated ? high_weight.data + low_row * pitch + quarter * 16 : low_from + 8 * pitch;
      left = segment.own_count(warp), load_round = per_round(left, rows_max), behind += segment.count;
    }
    const int count = min(load_round, left);
    low_there = group < count, high_there = group + (Gated ? 0 : 8) < count;
    if constexpr (in_units) {
      low_scales = StreamType<W>::scales_of(low_weight, low_row, quarter);
      high_scales = StreamType<W>::scales_of(high_weight, low_row + (Gated ? 0 : 8), quarter);
    }
    left -= count, next = 0;
  };
  const uint64_t policy = read_once();
  int fetched = 0, read = 0;  // places of the ring, of as many chunks as are multiplied at once
  const auto turn = [](int& place) {
    const int now = place;
    place = now + 1 == ring / at_once ? 0 : now + 1;
    return now * at_once * 2 * stream_threads;
  };
  const auto fetch = [&] {
    const int place = turn(fetched);
#pragma unroll
    for (int i = 0; i < at_once; i++) {
      uint4* const to = own_ring + place + i * 2 * stream_threads;
      const bool there = next + i < own_chunks;
      copy_weights_or_zeros(to, low_from + (next + i) * unit_bytes, there && low_there, policy);
      copy_weights_or_zeros(to + stream_threads, high_from + (next + i) * unit_bytes, there && high_there,
                            policy);
      if constexpr (in_units)
        if (has_scales && i % units_of_scales == 0) {
          uint32_t* const scales_to = own_scales + place + i * 2 * stream_threads;
          const int at = StreamType<W>::scale_at((next + i) * chunk_columns);
          copy_word_or_zeros(scales_to, low_scales + at, there && low_there);
          copy_word_or_zeros(scales_to + stream_threads, high_scales + at, there && high_there);
        }
    }
    end_copies();
    next += at_once;
    if (next < chunks) return;
    low_from += load_round * pitch, high_from += load_round * pitch, low_row += load_round;
    begin_round();
  };
  begin_round();
  for (int i = 0; i < ring / at_once; i++) fetch();
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
      float of_tile[1][Eights][4] = {};
      auto& sums = of_tile[0];
      for (int chunk = 0; chunk < chunks; chunk += at_once) {
        wait_for_copies<ring / at_once - 1>();
        const int place = turn(read);
        if constexpr (in_units) {
#pragma unroll
          for (int i = 0; i < at_once; i++) {
            const int column = (chunk + i) * chunk_columns, own = place + i * 2 * stream_threads,
                      of_scales = place + i / units_of_scales * units_of_scales * 2 * stream_threads;
            multiply_units<W>(
                of_tile, {own_ring[own]}, {own_ring[own + stream_threads]},
                {has_scales ? own_scales[of_scales] : StreamType<W>::one},
                {has_scales ? own_scales[of_scales + stream_threads] : StreamType<W>::one}, column,
                [&](int piece, int j) {
                  const int at = column + piece * 32;
                  return at + quarter * chunk_values < columns ? *reinterpret_cast<const uint4*>(in[j] + at)
                                                               : uint4{0, 0, 0, 0};
                },
                [](int) {});
          }
          // What is copied next takes the scales' place: they are read before.
          asm volatile("" ::: "memory");
        } else {
          uint4 low[at_once], high[at_once], x[at_once][Eights];
#pragma unroll
          for (int i = 0; i < at_once; i++) {
            const uint4* const from = own_ring + place + i * 2 * stream_threads;
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
        }
        fetch();
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

template <DType W, int Eights>
void launch_experts(const ExpertArgs& args, cudaStream_t stream) {
  const auto kernel = args.gated ? stream_experts<W, Eights, true> : stream_experts<W, Eights, false>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_memory_max()),
        "cudaFuncSetAttribute");
  const int64_t shared =
      experts_ring_bytes(W, Eights) + staged_bytes(args.product.weight.columns, Eights * 8);
  launch("experts' products", kernel, static_cast<unsigned>(experts_blocks_of(Eights) * multiprocessors()),
         stream_threads, static_cast<size_t>(shared), stream, args);
}

/// Products of experts whose weights have type W, in tiles of so many rows.
template <DType W>
void stream_experts_type(const ExpertArgs& args, int tile_rows, cudaStream_t stream) {
  switch (tile_rows) {
    case 8:
      return launch_experts<W, 1>(args, stream);
    case 16:
      return launch_experts<W, 2>(args, stream);
    default:
      return launch_experts<W, 4>(args, stream);
  }
}

extern template void stream_experts_type<DType::bf16>(const ExpertArgs&, int, cudaStream_t);
extern template void stream_experts_type<DType::f8_e4m3>(const ExpertArgs&, int, cudaStream_t);
extern template void stream_experts_type<DType::i8>(const ExpertArgs&, int, cudaStream_t);
extern template void stream_experts_type<DType::q8_0>(const ExpertArgs&, int, cudaStream_t);
extern template void stream_experts_type<DType::q4_0>(const ExpertArgs&, int, cudaStream_t);
extern template void stream_experts_type<DType::q4_1>(const ExpertArgs&, int, cudaStream_t);
extern template void stream_experts_type<DType::q4_k>(const ExpertArgs&, int, cudaStream_t);

}  // namespace convoy::cuda
