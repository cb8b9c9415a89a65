// How the blocks of each quantised type become bytes in lanes; lane = output. Part of kernels.inl.
//
// A format F says: `bytes` of `blocks` blocks of 32 columns that are stored together; `offset`, what the
// bytes in lanes are above the weights they stand for; the largest such byte, `weight_max`; whether there is
// a `minimum`; and the number of `scales` of a block. F::unpack reads those of a tile (packed.hpp): what is
// at byte b of a stored block is at 16 · b for all outputs.

/// Of bytes that prepare_signed() made, which are signed where the instruction set can take that.
constexpr int signed_weights = 0;

/// One block of 32 columns of 16 outputs. w[t] holds columns 4t … 4t + 3 as bytes. With two scales, d is that
/// of the first 16 columns and m that of the others.
struct Block {
  Vw w[8];
  Vf d, m;
};

/// Bytes `at` to `at` + 3 of a stored block of each output; at most the half-precision number there.
[[gnu::always_inline]] inline Vw dword_at(const std::byte* p, int64_t at) {
  return load_dwords(p + lanes * at);
}
[[gnu::always_inline]] inline Vf half_at(const std::byte* p, int64_t at) {
  return load(reinterpret_cast<const Half*>(p + lanes * at));
}

Vw low_nibbles(Vw a) { return bits<0, 15>(a); }
Vw high_nibbles(Vw a) { return bits<4, 15>(a); }

/// A block's 16 bytes from `at` on: columns 0 to 15 are their low halves, 16 to 31 their high ones.
[[gnu::always_inline]] inline void unpack_nibbles(const std::byte* p, int64_t at, Block* out) {
#pragma GCC unroll 4
  for (int t = 0; t < 4; ++t) {
    const Vw nibbles = dword_at(p, at + 4 * t);
    out->w[t] = low_nibbles(nibbles), out->w[4 + t] = high_nibbles(nibbles);
  }
}

struct Q41 {
  static constexpr int64_t bytes = 20, blocks = 1;
  static constexpr int32_t offset = 0;
  static constexpr bool minimum = true;
  static constexpr int scales = 1;
  static constexpr int weight_max = 15;
  [[gnu::always_inline]] static void unpack(const std::byte* p, Block* out) {
    const Vi header = as_ints(dword_at(p, 0));
    out->d = half_low(header);
    out->m = half_high(header);
    unpack_nibbles(p, 4, out);
  }
};

struct Q40 {
  static constexpr int64_t bytes = 18, blocks = 1;
  static constexpr int32_t offset = 8;
  static constexpr bool minimum = false;
  static constexpr int scales = 1;
  static constexpr int weight_max = 15;
  [[gnu::always_inline]] static void unpack(const std::byte* p, Block* out) {
    out->d = half_at(p, 0);
    unpack_nibbles(p, 2, out);
  }
};

struct Iq4Nl {
  static constexpr int64_t bytes = 18, blocks = 1;
  static constexpr int32_t offset = signed_offset;
  static constexpr bool minimum = false;
  static constexpr int scales = 1;
  static constexpr int weight_max = signed_weights;
  [[gnu::always_inline]] static void unpack(const std::byte* p, Block* out) {
    Q40::unpack(p, out);
#pragma GCC unroll 8
    for (int t = 0; t < 8; ++t) out->w[t] = prepare_signed(lookup(out->w[t], model::iq4_nl_values.data()));
  }
};

struct Q80 {
  static constexpr int64_t bytes = 34, blocks = 1;
  static constexpr int32_t offset = signed_offset;
  static constexpr bool minimum = false;
  static constexpr int scales = 1;
  static constexpr int weight_max = signed_weights;
  [[gnu::always_inline]] static void unpack(const std::byte* p, Block* out) {
    out->d = half_at(p, 0);
#pragma GCC unroll 8
    for (int t = 0; t < 8; ++t) out->w[t] = prepare_signed(dword_at(p, 2 + 4 * t));
  }
};

/// Bit p of each byte moved to bit 4: what the fifth bit of part p of a q5_k block is worth.
template <int p>
[[gnu::always_inline]] inline Vw fifth_bit(Vw a) {
  return bits<p - 4, 16>(a);
}

/// Scales and minimums of the 8 blocks of q4_k and q5_k, of which the first 16 bytes are the header.
[[gnu::always_inline]] inline void unpack_scales(const std::byte* p, Block* out) {
  const Vi header = as_ints(dword_at(p, 0));  // d and dmin, then 12 bytes of scales
  const Vw first = dword_at(p, 4), second = dword_at(p, 8), both = dword_at(p, 12);
  const Vf d = half_low(header), dmin = sub(splat(0), half_high(header));
  const Vw scales[2] = {bits<0, 63>(first), merge(bits<0, 15>(both), bits<2, 48>(first))};
  const Vw minimums[2] = {bits<0, 63>(second), merge(bits<4, 15>(both), bits<2, 48>(second))};
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    out[i].d = mul(d, byte_at(scales[i / 4], i % 4));
    out[i].m = mul(dmin, byte_at(minimums[i / 4], i % 4));
  }
}

struct Q4K {
  static constexpr int64_t bytes = 144, blocks = 8;
  static constexpr int32_t offset = 0;
  static constexpr bool minimum = true;
  static constexpr int scales = 1;
  static constexpr int weight_max = 15;
  [[gnu::always_inline]] static void unpack(const std::byte* p, Block* out) {
    unpack_scales(p, out);
    for (int i = 0; i < 8; i += 2) {
#pragma GCC unroll 8
      for (int t = 0; t < 8; ++t) {
        const Vw nibbles = dword_at(p, 16 + i * 16 + 4 * t);
        out[i].w[t] = low_nibbles(nibbles), out[i + 1].w[t] = high_nibbles(nibbles);
      }
    }
  }
};

struct Q5K {
  static constexpr int64_t bytes = 176, blocks = 8;
  static constexpr int32_t offset = 0;
  static constexpr bool minimum = true;
  static constexpr int scales = 1;
  static constexpr int weight_max = 31;
  template <int i>
  [[gnu::always_inline]] static void unpack_two(const std::byte* p, Block* out) {
#pragma GCC unroll 8
    for (int t = 0; t < 8; ++t) {
      const Vw nibbles = dword_at(p, 48 + i * 16 + 4 * t), top = dword_at(p, 16 + 4 * t);
      out[i].w[t] = merge(low_nibbles(nibbles), fifth_bit<i>(top));
      out[i + 1].w[t] = merge(high_nibbles(nibbles), fifth_bit<i + 1>(top));
    }
  }
  [[gnu::always_inline]] static void unpack(const std::byte* p, Block* out) {
    unpack_scales(p, out);
    unpack_two<0>(p, out), unpack_two<2>(p, out), unpack_two<4>(p, out), unpack_two<6>(p, out);
  }
};

struct Q6K {
  static constexpr int64_t bytes = 210, blocks = 8;
  static constexpr int32_t offset = 32;
  static constexpr bool minimum = false;
  static constexpr int scales = 2;
  static constexpr int weight_max = 63;
  /// The 4 blocks of a half: low and high halves of 64 nibbles, each with its two of the eight top bits.
  template <int half>
  [[gnu::always_inline]] static void unpack_half(const std::byte* p, Block* out) {
#pragma GCC unroll 8
    for (int t = 0; t < 8; ++t) {
      const int at = 64 * half + 4 * t;
      const Vw first = dword_at(p, at), second = dword_at(p, at + 32),
               top = dword_at(p, 128 + at - 32 * half);
      out[0].w[t] = merge(low_nibbles(first), bits<-4, 48>(top));
      out[1].w[t] = merge(low_nibbles(second), bits<-2, 48>(top));
      out[2].w[t] = merge(high_nibbles(first), bits<0, 48>(top));
      out[3].w[t] = merge(high_nibbles(second), bits<2, 48>(top));
    }
  }
  [[gnu::always_inline]] static void unpack(const std::byte* p, Block* out) {
    const Vf d = half_at(p, 208);
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      const Vw scales = dword_at(p, 192 + i / 2 * 4);
      out[i].d = mul(d, signed_byte_at(scales, i % 2 * 2));
      out[i].m = mul(d, signed_byte_at(scales, i % 2 * 2 + 1));
    }
    unpack_half<0>(p, out);
    unpack_half<1>(p, out + 4);
  }
};
