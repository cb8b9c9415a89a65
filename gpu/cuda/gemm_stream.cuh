#pragma once
// Products at the speed of memory: how weights come, how they meet activations on tensor cores, and how a
// block's warps join their sums. Experts' products, whose warps have nothing to join, share the shape of
// blocks and the layout of rows in shared memory.
// A block's warps take turns at the columns, 32 each. Which columns meet in which product of the tensor cores
// does not matter to a sum, so threads load sixteen bytes as they lie: of a warp's 32 columns each of four
// threads has eight. A row's bits do not depend on how many rows there are.

#include "gpu/cuda/gemm_args.cuh"
#include "gpu/cuda/mma.cuh"

namespace convoy::cuda {

inline constexpr int stream_warps = 8, stream_threads = stream_warps * 32;
/// Columns that a block takes at once.
inline constexpr int stream_stride = stream_warps * 32;

/// bf16 values from a row of activations in shared memory to the next: what eight threads read at once lies
/// in different banks.
__host__ __device__ constexpr int staged_pitch(int columns) { return columns + 32; }
constexpr int64_t staged_bytes(int64_t columns, int64_t rows) {
  return rows * staged_pitch(static_cast<int>(columns)) * 2;
}

/// A thread's place.
struct StreamPlace {
  int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  int group = lane / 4, quarter = lane % 4;  // a row of a tile's weights; eight columns of 32
  int first_column = warp * 32 + quarter * chunk_values;
};

__device__ __forceinline__ uint4 load_weights(const std::byte* from) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from));
  return v;
}

/// A thread's loads of weights that are under way: `Ring` chunks of columns of `AtOnce` tiles. A tile has 16
/// rows; gated, eight of the gate's and the same of `up`.
template <int Ring, int AtOnce, bool Gated>
struct WeightRing {
  static constexpr int tile_rows = Gated ? 8 : 16, rows_max = tile_rows * AtOnce;

  const StreamPlace& place;
  /// Chunks of a tile, which all threads count in whole rounds of the ring, and those of them that are this
  /// thread's: what lies behind is zeros.
  int chunks, own_chunks;
  uint4 low[Ring][AtOnce], high[Ring][AtOnce];

  __device__ WeightRing(const StreamPlace& of, int columns)
      : place(of),
        chunks(((columns + stream_stride - 1) / stream_stride + Ring - 1) / Ring * Ring),
        own_chunks((columns - of.first_column + stream_stride - 1) / stream_stride) {}

  /// What is fetched next: `count` rows from `first` on (0: zeros). Those of `up` lie `to_up` bytes behind
  /// the gate's.
  __device__ __forceinline__ void begin(const std::byte* first, int64_t pitch, int64_t to_up, int count) {
#pragma unroll
    for (int m = 0; m < AtOnce; m++) {
      low_there_[m] = place.group + m * tile_rows < count;
      high_there_[m] = place.group + m * tile_rows + (Gated ? 0 : 8) < count;
    }
    from_ = first + place.group * pitch + place.first_column * 2;
    to_high_ = Gated ? to_up : 8 * pitch, to_next_ = tile_rows * pitch, next_ = 0;
  }
  __device__ __forceinline__ bool ended() const { return next_ == chunks; }
  __device__ __forceinline__ void fetch(int i) {
    const bool there = next_ < own_chunks;
#pragma unroll
    for (int m = 0; m < AtOnce; m++) {
      low[i][m] = there && low_there_[m] ? load_weights(from_ + m * to_next_) : uint4{0, 0, 0, 0};
      high[i][m] =
          there && high_there_[m] ? load_weights(from_ + m * to_next_ + to_high_) : uint4{0, 0, 0, 0};
    }
    from_ += stream_stride * 2, next_++;
  }

  /// Adds this thread's products of the tiles that come next with Eights · 8 rows. activations(chunk, j)
  /// gives eight values of row j · 8 + group; begin_next() is called when everything of these tiles is under
  /// way.
  template <int Eights, class Activations, class BeginNext>
  __device__ __forceinline__ void multiply(float (&sums)[AtOnce][Eights][4], const Activations& activations,
                                           const BeginNext& begin_next) {
    for (int chunk = 0; chunk < chunks; chunk += Ring) {
#pragma unroll
      for (int i = 0; i < Ring; i++) {
#pragma unroll
        for (int j = 0; j < Eights; j++) {
          const uint4 x = chunk + i < own_chunks ? activations(chunk + i, j) : uint4{0, 0, 0, 0};
#pragma unroll
          for (int m = 0; m < AtOnce; m++) {
            const uint4 &l = low[i][m], &h = high[i][m];
            mma(sums[m][j], {l.x, h.x, l.y, h.y}, x.x, x.y);
            mma(sums[m][j], {l.z, h.z, l.w, h.w}, x.z, x.w);
          }
        }
        fetch(i);
      }
      if (ended()) begin_next();
    }
  }

 private:
  const std::byte* from_ = nullptr;
  int64_t to_high_ = 0, to_next_ = 0;
  int next_ = 0;
  bool low_there_[AtOnce] = {}, high_there_[AtOnce] = {};
};

template <int AtOnce, int Eights>
using StreamParts = float4[stream_warps][AtOnce][Eights][32];

/// Joins the warps' sums in one order: put(row, output, sum, sum of `up`) for those of Eights · 8 rows and of
/// the tiles that are there. Everybody has written `parts` when the first is read; who writes them again has
/// to know that they were read.
template <bool Gated, int AtOnce, int Eights, class Put>
__device__ __forceinline__ void join_warps(const StreamPlace& place, StreamParts<AtOnce, Eights>& parts,
                                           const float (&sums)[AtOnce][Eights][4], int rows, int outputs,
                                           const Put& put) {
  constexpr int tile_rows = Gated ? 8 : 16;
#pragma unroll
  for (int m = 0; m < AtOnce; m++)
#pragma unroll
    for (int j = 0; j < Eights; j++)
      parts[place.warp][m][j][place.lane] = {sums[m][j][0], sums[m][j][1], sums[m][j][2], sums[m][j][3]};
  __syncthreads();
  // Values of a thread's float4: rows group and group + 8 of the weights, each by two rows of activations.
  constexpr int elements = Gated ? 2 : 4;
  for (int i = place.thread; i < AtOnce * Eights * 32 * elements; i += stream_threads) {
    const int element = i % elements, of_lane = i / elements % 32, j = i / elements / 32 % Eights,
              m = i / elements / 32 / Eights;
    const int output = m * tile_rows + of_lane / 4 + element / 2 * 8,
              row = j * 8 + of_lane % 4 * 2 + element % 2;
    if (output >= outputs || row >= rows) continue;
    float sum = 0, up_sum = 0;
#pragma unroll
    for (int w = 0; w < stream_warps; w++) {
      const float* const values = reinterpret_cast<const float*>(&parts[w][m][j][of_lane]);
      sum += values[element];
      if constexpr (Gated) up_sum += values[element + 2];
    }
    put(row, output, sum, up_sum);
  }
}

}  // namespace convoy::cuda
