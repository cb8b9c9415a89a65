#pragma once
// Products at the speed of memory: how weights come, how they meet activations on tensor cores, and how a
// block's warps join their sums. Experts' products, whose warps have nothing to join, share the shape of
// blocks and the layout of rows in shared memory.
// A block's warps take turns at the columns, 64 or 128 bytes of each row at once. Which columns meet in which
// product of the tensor cores does not matter to a sum, so threads load sixteen bytes as they lie, each of
// four of a row's: eight columns of bf16, more of the types in stream_types.cuh. A row's bits do not depend
// on how many rows there are.

#include "gpu/cuda/gemm_args.cuh"
#include "gpu/cuda/stream_types.cuh"

namespace convoy::cuda {

inline constexpr int stream_warps = 8, stream_threads = stream_warps * 32;
/// Bytes of a row that a block takes at once.
inline constexpr int stream_stride = stream_warps * unit_bytes;

/// bf16 values from a row of activations in shared memory to the next: what eight threads read at once lies
/// in different banks.
__host__ __device__ constexpr int staged_pitch(int columns) { return columns + 32; }
constexpr int64_t staged_bytes(int64_t columns, int64_t rows) {
  return rows * staged_pitch(static_cast<int>(columns)) * 2;
}

/// A thread's place.
struct StreamPlace {
  int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
  int group = lane / 4, quarter = lane % 4;  // a row of a tile's weights; sixteen bytes of 64
};

/// The policy is made beside each load: the compiler then branches around loads that are not there, instead
/// of predicating them, and a step of one row is 1.5 % quicker (docs/decisions/0042).
__device__ __forceinline__ uint4 load_weights(const std::byte* from) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4], %5;"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from), "l"(read_once()));
  return v;
}

/// A thread's loads of bf16 weights that are under way: `Ring` chunks of columns of `AtOnce` tiles. A tile
/// has 16 rows; gated, eight of the gate's and the same of `up`.
template <int Ring, int AtOnce, bool Gated, int Eights>
struct Bf16Ring {
  static constexpr int tile_rows = Gated ? 8 : 16, rows_max = tile_rows * AtOnce;
  /// A warp's chunks come in pairs: a row's bytes of both are one line.
  static constexpr int chunk_columns = 32, warp_columns = 2 * chunk_columns,
                       stride = stream_warps * warp_columns;

  const StreamPlace& place;
  /// Chunks of a tile, which all threads count in whole rounds of the ring, and those of them that are this
  /// thread's: what lies behind is zeros.
  int chunks, own_chunks;
  uint4 low[Ring][AtOnce], high[Ring][AtOnce];

  __device__ Bf16Ring(const StreamPlace& of, int columns)
      : place(of),
        chunks((chunks_in(columns) + Ring - 1) / Ring * Ring),
        own_chunks(chunks_in(columns - place.warp * warp_columns - place.quarter * chunk_values)) {}

  /// What is fetched next: `count` rows of the weight (gated: and of `up`) from `first` on (0: zeros).
  __device__ __forceinline__ void begin(const Matrix& weight, const Matrix& up, int first, int count) {
#pragma unroll
    for (int m = 0; m < AtOnce; m++) {
      low_there_[m] = place.group + m * tile_rows < count;
      high_there_[m] = place.group + m * tile_rows + (Gated ? 0 : 8) < count;
    }
    from_ = weight.data + (first + place.group) * weight.pitch + place.warp * (2 * unit_bytes) +
            place.quarter * 16;
    to_high_ = Gated ? up.data - weight.data : 8 * weight.pitch;
    to_next_ = tile_rows * weight.pitch, next_ = 0;
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
    from_ += next_ % 2 == 0 ? unit_bytes : 2 * stream_stride - unit_bytes, next_++;
  }

  /// Adds this thread's products of the tiles that come next with Eights · 8 rows. activations(column, j)
  /// gives eight values of row j · 8 + group, from the column on that is so far behind the thread's first;
  /// begin_next() is called when everything of these tiles is under way.
  template <class Activations>
  __device__ __forceinline__ void begin_rows(const Activations&) {}
  template <class Activations, class BeginNext>
  __device__ __forceinline__ void multiply(float (&sums)[AtOnce][Eights][4], const Activations& activations,
                                           const BeginNext& begin_next) {
    for (int chunk = 0; chunk < chunks; chunk += Ring) {
#pragma unroll
      for (int i = 0; i < Ring; i++) {
#pragma unroll
        for (int j = 0; j < Eights; j++) {
          const uint4 x = chunk + i < own_chunks ? activations(column_of(chunk + i), j) : uint4{0, 0, 0, 0};
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
  static __device__ __forceinline__ int column_of(int chunk) {
    return chunk / 2 * stride + chunk % 2 * chunk_columns;
  }
  /// How many begin before the last column.
  static __device__ __forceinline__ int chunks_in(int columns) {
    return (columns + stride - 1) / stride + (columns - chunk_columns + stride - 1) / stride;
  }

  const std::byte* from_ = nullptr;
  int64_t to_high_ = 0, to_next_ = 0;
  int next_ = 0;
  bool low_there_[AtOnce] = {}, high_there_[AtOnce] = {};
};

/// If `there`; else `to` stays as it is. Without a branch.
__device__ __forceinline__ void load_weights_if(bool there, uint4& to, const std::byte* from,
                                                uint64_t policy) {
  asm volatile(
      "{.reg .pred p;\n setp.ne.s32 p, %4, 0;\n"
      " @p ld.global.nc.L1::no_allocate.L2::cache_hint.L2::128B.v4.u32 {%0, %1, %2, %3}, [%5], %6;}\n"
      : "+r"(to.x), "+r"(to.y), "+r"(to.z), "+r"(to.w)
      : "r"(static_cast<int>(there)), "l"(from), "l"(policy));
}
__device__ __forceinline__ void load_word_if(bool there, uint32_t& to, const std::byte* from) {
  asm volatile("{.reg .pred p;\n setp.ne.s32 p, %1, 0;\n @p ld.global.nc.u32 %0, [%2];}\n"
               : "+r"(to)
               : "r"(static_cast<int>(there)), "l"(from));
}

/// The same of a type in units. Rows behind the last are loaded as that one is, and not kept. Of activations
/// so many operands are under way (Ahead, 0: they are read when they are needed).
template <DType W, int Ring, int AtOnce, bool Gated, int Eights, int Ahead>
struct UnitRing {
  using Type = StreamType<W>;
  static constexpr int places = Ahead > 0 ? Ahead : 1;
  static_assert(Type::pieces % places == 0);
  static constexpr int tile_rows = Gated ? 8 : 16, rows_max = tile_rows * AtOnce;
  static constexpr int chunk_columns = Type::columns, warp_columns = chunk_columns,
                       stride = stream_warps * warp_columns;
  static constexpr int scale_stride = Type::scale_at(stride);

  const StreamPlace& place;
  int warp;         // in a register of all its threads, so that they are seen to go one way
  int last_column;  // that an operand of the thread begins with, behind its first
  int chunks, own_chunks;
  uint4 low[Ring][AtOnce], high[Ring][AtOnce];
  uint32_t low_scales[Ring][AtOnce], high_scales[Ring][AtOnce];

  __device__ UnitRing(const StreamPlace& of, int columns)
      : place(of),
        warp(__shfl_sync(0xffffffffu, of.warp, 0)),
        last_column(columns - chunk_values - warp * chunk_columns - of.quarter * chunk_values),
        chunks(((columns + stride - 1) / stride + Ring - 1) / Ring * Ring),
        own_chunks((columns - warp * chunk_columns + stride - 1) / stride) {
#pragma unroll
    for (int i = 0; i < Ring; i++)
#pragma unroll
      for (int m = 0; m < AtOnce; m++)
        low[i][m] = high[i][m] = uint4{0, 0, 0, 0}, low_scales[i][m] = high_scales[i][m] = Type::one;
  }

  __device__ __forceinline__ void begin(const Matrix& weight, const Matrix& up, int first, int count) {
    left_ = count > 0 ? own_chunks : 0, next_ = 0;
#pragma unroll
    for (int m = 0; m < AtOnce; m++) {
      const int in_tiles = place.group + m * tile_rows, low_row = first + max(0, min(in_tiles, count - 1)),
                high_row = Gated ? low_row : first + max(0, min(in_tiles + 8, count - 1));
      const int64_t at = warp * unit_bytes + place.quarter * 16;
      const Matrix& of_high = Gated ? up : weight;
      low_from_[m] = weight.data + low_row * weight.pitch + at;
      high_from_[m] = of_high.data + high_row * weight.pitch + at;
      const int scales_at = Type::scale_at(warp * chunk_columns);
      of_low_[m] = Type::scales_of(weight, low_row, place.quarter) + scales_at;
      of_high_[m] = Type::scales_of(of_high, high_row, place.quarter) + scales_at;
    }
    has_scales_ = Type::has_scales(weight);
  }
  __device__ __forceinline__ bool ended() const { return next_ == chunks; }
  /// Called for all of the ring in their order.
  __device__ __forceinline__ void fetch(int i) {
    const bool there = i < left_;
#pragma unroll
    for (int m = 0; m < AtOnce; m++) {
      load_weights_if(there, low[i][m], low_from_[m] + i * stream_stride, policy_);
      load_weights_if(there, high[i][m], high_from_[m] + i * stream_stride, policy_);
      load_word_if(there && has_scales_, low_scales[i][m], of_low_[m] + i * scale_stride);
      load_word_if(there && has_scales_, high_scales[i][m], of_high_[m] + i * scale_stride);
    }
    if (i + 1 < Ring) return;
#pragma unroll
    for (int m = 0; m < AtOnce; m++) {
      low_from_[m] += Ring * stream_stride, high_from_[m] += Ring * stream_stride;
      of_low_[m] += Ring * scale_stride, of_high_[m] += Ring * scale_stride;
    }
    left_ -= Ring, next_ += Ring;
  }

  /// The activations are there.
  template <class Activations>
  __device__ __forceinline__ void begin_rows(const Activations& activations) {
#pragma unroll
    for (int p = 0; p < Ahead; p++) take(activations, p, p * 32);
  }

  template <class Activations, class BeginNext>
  __device__ __forceinline__ void multiply(float (&sums)[AtOnce][Eights][4], const Activations& activations,
                                           const BeginNext& begin_next) {
    for (int chunk = 0; chunk < chunks; chunk += Ring) {
#pragma unroll
      for (int i = 0; i < Ring; i++) {
        if (chunk + i < own_chunks) {
          const int column = (chunk + i) * stride;
          const int next = chunk + i + 1 < own_chunks ? column + stride : 0;  // of the next tile, if not
          multiply_units<W>(
              sums, low[i], high[i], low_scales[i], high_scales[i], warp * chunk_columns + column,
              [&](int piece, int j) {
                if constexpr (Ahead > 0) return rows_[piece % places][j];
                return activations(min(column + piece * 32, last_column), j);
              },
              [&](int piece) {
                if constexpr (Ahead > 0) {
                  const int further = piece + Ahead;
                  take(activations, piece % places,
                       further < Type::pieces ? column + further * 32 : next + (further - Type::pieces) * 32);
                }
              });
        }
        fetch(i);
      }
      if (ended()) begin_next();
    }
  }

 private:
  /// Where a unit is not full its weights are zeros: any activations do.
  template <class Activations>
  __device__ __forceinline__ void take(const Activations& activations, int place, int column) {
#pragma unroll
    for (int j = 0; j < Eights; j++) rows_[place][j] = activations(min(column, last_column), j);
  }

  const uint64_t policy_ = read_once();
  uint4 rows_[places][Eights];
  const std::byte *low_from_[AtOnce] = {}, *high_from_[AtOnce] = {};
  const std::byte *of_low_[AtOnce] = {}, *of_high_[AtOnce] = {};  // scales
  bool has_scales_ = false;
  int next_ = 0, left_ = 0;
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
