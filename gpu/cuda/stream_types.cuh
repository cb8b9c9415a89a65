#pragma once
// How weights of each type meet activations on tensor cores where they are streamed: sixteen bytes of a row,
// as a thread loads them, become one or more operands of eight values in bf16 without any rounding. Scales
// are float32, and multiply the sums of the columns that share them.

#include "gpu/cuda/decode.cuh"
#include "gpu/cuda/mma.cuh"

namespace convoy::cuda {

/// Signed bytes, exact in bf16: 2^23 + 128 + b as float32 has b + 128 in its last byte.
__device__ __forceinline__ uint4 bf16_of_signed(uint32_t first, uint32_t second) {
  constexpr uint32_t signs = 0x80808080, magic = 0x4b000000;
  const auto value = [](uint32_t word, uint32_t selector) {
    return __float_as_uint(__uint_as_float(__byte_perm(word, magic, selector)) - 8388736.0f);
  };
  // A whole number below 256 has nothing in float32's lower half.
  const auto two = [&](uint32_t word, int i) {
    return __byte_perm(value(word, 0x7540u | static_cast<uint32_t>(i)),
                       value(word, 0x7541u + static_cast<uint32_t>(i)), 0x7632);
  };
  first ^= signs, second ^= signs;
  return {two(first, 0), two(first, 2), two(second, 0), two(second, 2)};
}

__device__ __forceinline__ __nv_bfloat162 as_two(uint32_t bits) {
  return *reinterpret_cast<const __nv_bfloat162*>(&bits);
}
__device__ __forceinline__ uint32_t bits_of(const __nv_bfloat162& two) {
  return *reinterpret_cast<const uint32_t*>(&two);
}

/// (a & b) | c
__device__ __forceinline__ uint32_t and_or(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t result;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
  return result;
}

/// e4m3 in bf16: exponents and mantissas fit, 2^120 apart; its smallest numbers are those of bf16 too. NaN
/// becomes 480, which is no number of e4m3 (loading refuses it).
__device__ __forceinline__ uint4 bf16_of_e4m3(uint32_t first, uint32_t second) {
  const __nv_bfloat162 scale = as_two(0x7b807b80);  // 2^120
  const auto two = [&](uint32_t word, uint32_t selector) {
    const uint32_t high = __byte_perm(word, 0, selector);  // a byte at the top of each half
    return bits_of(__hmul2(as_two(and_or(high >> 4, 0x07f007f0, high & 0x80008000)), scale));
  };
  return {two(first, 0x1404), two(first, 0x3424), two(second, 0x1404), two(second, 0x3424)};
}

/// Four bits each, of bytes in the order of place_in_unit(): 128 + n has n in its last bits.
__device__ __forceinline__ uint4 bf16_of_halves(uint32_t first, uint32_t second, int shift) {
  constexpr uint32_t magic = 0x43004300;
  const auto two = [](uint32_t word) {
    return bits_of(__hsub2(as_two(and_or(word, 0x000f000f, magic)), as_two(magic)));
  };
  return {two(first >> shift), two(first >> (shift + 8)), two(second >> shift), two(second >> (shift + 8))};
}

/// A type in units. columns: of what the four threads of a row load at once. pieces: operands that sixteen
/// bytes are; those of piece p are the columns from 32 · p + 8 · quarter on. A part is so many pieces, whose
/// products are summed before they are scaled. words: of the scales that belong to what is loaded at once, as
/// memory has them; the four threads have one each, and show it to each other.
template <DType W>
struct StreamType;

template <DType W, int PiecesOfPart, bool HasLeast>
struct UnitType {
  static constexpr bool has_least = HasLeast;
  static constexpr int columns = unit_values(W), pieces = columns / 32, pieces_of_part = PiecesOfPart;
};
struct ScaleAndLeast {
  float scale, least;  // a value is scale · n + least
};
__device__ __forceinline__ float half_of(uint32_t two, int i) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(i == 0 ? two & 0xffff : two >> 16)));
}
/// Word `word` of a row's, of which each thread has one.
__device__ __forceinline__ uint32_t word_of(uint32_t own, int word) {
  return __shfl_sync(0xffffffffu, own, word, 4);
}

/// Scales that stand by themselves; without any all are 1.
template <DType W>
struct PlainType : UnitType<W, 2, false> {
  static constexpr uint32_t one = 0x3f800000;
  static constexpr int units_of_scales = 2;  // that have the same, at least
  using Opened = float;
  static __device__ __forceinline__ bool has_scales(const Matrix& m) { return m.scales != nullptr; }
  static __device__ __forceinline__ Opened open(uint32_t scale, int) { return __uint_as_float(scale); }
  static __device__ __forceinline__ ScaleAndLeast of_part(Opened scale, int) { return {scale, 0}; }
};

template <>
struct StreamType<DType::f8_e4m3> : PlainType<DType::f8_e4m3> {
  static __device__ __forceinline__ const std::byte* scales_of(const Matrix& m, int row, int) {
    return reinterpret_cast<const std::byte*>(m.scales + row / 128 * m.scale_pitch);
  }
  static constexpr int scale_at(int column) { return column / 128 * 4; }
  static __device__ __forceinline__ uint4 eight(const uint4& v, int piece) {
    return piece == 0 ? bf16_of_e4m3(v.x, v.y) : bf16_of_e4m3(v.z, v.w);
  }
};

template <>
struct StreamType<DType::i8> : PlainType<DType::i8> {
  static __device__ __forceinline__ const std::byte* scales_of(const Matrix& m, int row, int) {
    return reinterpret_cast<const std::byte*>(m.scales + row);
  }
  static constexpr int scale_at(int) { return 0; }
  static __device__ __forceinline__ uint4 eight(const uint4& v, int piece) {
    return piece == 0 ? bf16_of_signed(v.x, v.y) : bf16_of_signed(v.z, v.w);
  }
};

/// Scales that stand in the heads of blocks.
template <DType W, bool HasLeast, int Words>
struct BlockType : UnitType<W, 1, HasLeast> {
  static constexpr uint32_t one = 0;  // is never asked for
  static constexpr int units_of_scales = block_size(W).values > unit_values(W)
                                             ? block_size(W).values / unit_values(W)
                                             : 1;
  static __device__ __forceinline__ bool has_scales(const Matrix&) { return true; }
  static __device__ __forceinline__ const std::byte* scales_of(const Matrix& m, int row, int quarter) {
    return m.data + row * m.pitch + m.heads_from + quarter % Words * 4;
  }
  static constexpr int scale_at(int column) { return column / block_size(W).values * head_bytes(W); }
};

template <>
struct StreamType<DType::q8_0> : BlockType<DType::q8_0, false, 1> {
  using Opened = uint32_t;  // of two blocks
  static __device__ __forceinline__ Opened open(uint32_t two, int) { return two; }
  static __device__ __forceinline__ uint4 eight(const uint4& v, int piece) {
    return piece == 0 ? bf16_of_signed(v.x, v.y) : bf16_of_signed(v.z, v.w);
  }
  static __device__ __forceinline__ ScaleAndLeast of_part(Opened two, int piece) {
    return {half_of(two, piece), 0};
  }
};

/// Of a unit of nibbles: the lower halves of one run's bytes, the higher ones, and the same of the other run.
__device__ __forceinline__ uint4 eight_halves(const uint4& v, int piece) {
  const int shift = piece % 2 * 4;
  return piece < 2 ? bf16_of_halves(v.x, v.y, shift) : bf16_of_halves(v.z, v.w, shift);
}

template <>
struct StreamType<DType::q4_0> : BlockType<DType::q4_0, true, 2> {
  using Opened = uint2;  // of four blocks
  static __device__ __forceinline__ Opened open(uint32_t own, int) {
    return {word_of(own, 0), word_of(own, 1)};
  }
  static __device__ __forceinline__ uint4 eight(const uint4& v, int piece) { return eight_halves(v, piece); }
  static __device__ __forceinline__ ScaleAndLeast of_part(const Opened& four, int piece) {
    const float scale = half_of(piece < 2 ? four.x : four.y, piece % 2);
    return {scale, -8 * scale};
  }
};

template <>
struct StreamType<DType::q4_1> : BlockType<DType::q4_1, true, 4> {
  using Opened = uint32_t;  // of four blocks, scale and least
  static __device__ __forceinline__ Opened open(uint32_t own, int) { return own; }
  static __device__ __forceinline__ uint4 eight(const uint4& v, int piece) { return eight_halves(v, piece); }
  static __device__ __forceinline__ ScaleAndLeast of_part(Opened own, int piece) {
    const uint32_t both = word_of(own, piece);
    return {half_of(both, 0), half_of(both, 1)};
  }
};

template <>
struct StreamType<DType::q4_k> : BlockType<DType::q4_k, true, 4> {
  struct Opened {
    uint32_t scales, leasts;  // of four parts, a byte each
    float scale, scale_zero, least, least_zero;
  };
  static constexpr float magic = 8388608;  // 2^23 + n has n in its last byte
  /// As part_scale(), of the parts of the unit at `column`.
  static __device__ __forceinline__ Opened open(uint32_t own, int column) {
    const uint32_t y = word_of(own, 1), z = word_of(own, 2), both = word_of(own, 0);
    Opened o;
    if (column % 256 == 0) {
      o.scales = y & 0x3f3f3f3f, o.leasts = z & 0x3f3f3f3f;
    } else {
      const uint32_t w = word_of(own, 3);
      o.scales = (w & 0x0f0f0f0f) | (y >> 2 & 0x30303030);
      o.leasts = (w >> 4 & 0x0f0f0f0f) | (z >> 2 & 0x30303030);
    }
    o.scale = half_of(both, 0), o.least = -half_of(both, 1);
    o.scale_zero = -magic * o.scale, o.least_zero = -magic * o.least;
    return o;
  }
  static __device__ __forceinline__ uint4 eight(const uint4& v, int piece) { return eight_halves(v, piece); }
  static __device__ __forceinline__ ScaleAndLeast of_part(const Opened& o, int piece) {
    const auto value = [&](uint32_t four) {
      return __uint_as_float(__byte_perm(four, 0x4b000000, 0x7540u + static_cast<uint32_t>(piece)));
    };
    return {fmaf(value(o.scales), o.scale, o.scale_zero), fmaf(value(o.leasts), o.least, o.least_zero)};
  }
};

/// Adds the products of Tiles · 16 rows of a weight, as a thread has sixteen bytes of two of each (tile m:
/// low[m] and high[m]), with Eights · 8 rows of activations. activations(piece, j): eight values of row
/// j · 8 + group; used(piece): they were multiplied.
template <DType W, int Tiles, int Eights, class Activations, class Used>
__device__ __forceinline__ void multiply_units(float (&sums)[Tiles][Eights][4], const uint4 (&low)[Tiles],
                                               const uint4 (&high)[Tiles],
                                               const uint32_t (&low_scales)[Tiles],
                                               const uint32_t (&high_scales)[Tiles], int column,
                                               const Activations& activations, const Used& used) {
  using T = StreamType<W>;
  constexpr uint32_t ones = 0x3f803f80;
  typename T::Opened low_opened[Tiles], high_opened[Tiles];
#pragma unroll
  for (int m = 0; m < Tiles; m++)
    low_opened[m] = T::open(low_scales[m], column), high_opened[m] = T::open(high_scales[m], column);
#pragma unroll
  for (int first = 0; first < T::pieces; first += T::pieces_of_part) {
    float part[Tiles][Eights][4], total[Eights][4];
#pragma unroll
    for (int piece = first; piece < first + T::pieces_of_part; piece++) {
      uint4 l[Tiles], h[Tiles];
#pragma unroll
      for (int m = 0; m < Tiles; m++) l[m] = T::eight(low[m], piece), h[m] = T::eight(high[m], piece);
#pragma unroll
      for (int j = 0; j < Eights; j++) {
        const uint4 x = activations(piece, j);
#pragma unroll
        for (int m = 0; m < Tiles; m++) {
          if (piece == first)
            first_mma(part[m][j], {l[m].x, h[m].x, l[m].y, h[m].y}, x.x, x.y);
          else
            mma(part[m][j], {l[m].x, h[m].x, l[m].y, h[m].y}, x.x, x.y);
          mma(part[m][j], {l[m].z, h[m].z, l[m].w, h[m].w}, x.z, x.w);
        }
        if constexpr (T::has_least) {  // each of its rows: what the activations sum to
          static_assert(T::pieces_of_part == 1);
          first_mma(total[j], {ones, ones, ones, ones}, x.x, x.y);
          mma(total[j], {ones, ones, ones, ones}, x.z, x.w);
        }
      }
      used(piece);
    }
#pragma unroll
    for (int m = 0; m < Tiles; m++) {
      const ScaleAndLeast l = T::of_part(low_opened[m], first), h = T::of_part(high_opened[m], first);
#pragma unroll
      for (int j = 0; j < Eights; j++)
#pragma unroll
        for (int e = 0; e < 4; e++) {
          const ScaleAndLeast& own = e < 2 ? l : h;
          sums[m][j][e] = fmaf(own.scale, part[m][j][e], sums[m][j][e]);
          if constexpr (T::has_least) sums[m][j][e] = fmaf(own.least, total[j][e], sums[m][j][e]);
        }
    }
  }
}

}  // namespace convoy::cuda
