// How the blocks of each quantised type become bytes in lanes; lane = output. Part of kernels.inl.
//
// A format F says: `bytes` of `blocks` blocks of 32 columns that are stored together; `offset`, what the
// bytes in lanes are above the weights they stand for; the largest such byte, `weight_max`; whether there is
// a `minimum`; and the number of `scales` of a block. F::unpack reads them for 16 rows of weights, `stride`
// bytes apart.

/// Of bytes that prepare_signed() made, which are signed where the instruction set can take that.
constexpr int signed_weights = 0;

/// One block of 32 columns of 16 outputs. w[t] holds columns 4t … 4t + 3 as bytes. With two scales, d is that
/// of the first 16 columns and m that of the others.
struct Block {
  Vw w[8];
  Vf d, m;
};

Vw low_nibbles(Vw a) { return bits<0, 15>(a); }
Vw high_nibbles(Vw a) { return bits<4, 15>(a); }

struct Q41 {
  static constexpr int64_t bytes = 20, blocks = 1;
  static constexpr int64_t together = 4;  // blocks: 80 bytes are five times 16
  static constexpr int32_t offset = 0;
  static constexpr bool minimum = true;
  static constexpr int scales = 1;
  static constexpr int weight_max = 15;
  [[gnu::always_inline]] static void unpack(const std::byte* p, int64_t stride, Block* out) {
    const Vi header = load_rows_u32(p, stride);
    out->d = half_low(header);
    out->m = half_high(header);
    Vw nibbles[4];
    load_rows_16_bytes(p + 4, stride, nibbles);
#pragma GCC unroll 4
    for (int t = 0; t < 4; ++t) out->w[t] = low_nibbles(nibbles[t]), out->w[4 + t] = high_nibbles(nibbles[t]);
  }
  /// The same of `together` blocks, one after the other: use(block, its number) is called as soon as a block
  /// is unpacked, so that registers need not hold more than that and what the next one shares with it.
  template <class Use>
  [[gnu::always_inline]] static void unpack_together(const std::byte* p, int64_t stride, const Use& use) {
    Vw dwords[20];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      if (i == 0) load_rows_16_bytes(p, stride, dwords);
      load_rows_16_bytes(p + 16 * (i + 1), stride, dwords + 4 * (i + 1));
      const Vi header = as_ints(dwords[5 * i]);
      Block block;
      block.d = half_low(header);
      block.m = half_high(header);
#pragma GCC unroll 4
      for (int t = 0; t < 4; ++t) {
        block.w[t] = low_nibbles(dwords[5 * i + 1 + t]);
        block.w[4 + t] = high_nibbles(dwords[5 * i + 1 + t]);
      }
      use(block, i);
    }
  }
};

struct Q40 {
  static constexpr int64_t bytes = 18, blocks = 1, together = 1;
  static constexpr int32_t offset = 8;
  static constexpr bool minimum = false;
  static constexpr int scales = 1;
  static constexpr int weight_max = 15;
  [[gnu::always_inline]] static void unpack(const std::byte* p, int64_t stride, Block* out) {
    out->d = half_low(load_rows_u32(p, stride));
    Vw nibbles[4];
    load_rows_16_bytes(p + 2, stride, nibbles);
#pragma GCC unroll 4
    for (int t = 0; t < 4; ++t) out->w[t] = low_nibbles(nibbles[t]), out->w[4 + t] = high_nibbles(nibbles[t]);
  }
};

struct Iq4Nl {
  static constexpr int64_t bytes = 18, blocks = 1, together = 1;
  static constexpr int32_t offset = signed_offset;
  static constexpr bool minimum = false;
  static constexpr int scales = 1;
  static constexpr int weight_max = signed_weights;
  [[gnu::always_inline]] static void unpack(const std::byte* p, int64_t stride, Block* out) {
    Q40::unpack(p, stride, out);
#pragma GCC unroll 8
    for (int t = 0; t < 8; ++t) out->w[t] = prepare_signed(lookup(out->w[t], model::iq4_nl_values.data()));
  }
};

struct Q80 {
  static constexpr int64_t bytes = 34, blocks = 1, together = 1;
  static constexpr int32_t offset = signed_offset;
  static constexpr bool minimum = false;
  static constexpr int scales = 1;
  static constexpr int weight_max = signed_weights;
  [[gnu::always_inline]] static void unpack(const std::byte* p, int64_t stride, Block* out) {
    out->d = half_low(load_rows_u32(p, stride));
    load_rows_16_bytes(p + 2, stride, out->w);
    load_rows_16_bytes(p + 18, stride, out->w + 4);
#pragma GCC unroll 8
    for (int t = 0; t < 8; ++t) out->w[t] = prepare_signed(out->w[t]);
  }
};

/// Bit p of each byte moved to bit 4: what the fifth bit of part p of a q5_k block is worth.
template <int p>
[[gnu::always_inline]] inline Vw fifth_bit(Vw a) {
  return bits<p - 4, 16>(a);
}

/// Scales and minimums of the 8 blocks of q4_k and q5_k, of which the first 16 bytes are the header.
[[gnu::always_inline]] inline void unpack_scales(const std::byte* p, int64_t stride, Block* out) {
  Vw header[4];  // d and dmin, then 12 bytes of scales
  load_rows_16_bytes(p, stride, header);
  const Vf d = half_low(as_ints(header[0])), dmin = sub(splat(0), half_high(as_ints(header[0])));
  const Vw scales[2] = {bits<0, 63>(header[1]), merge(bits<0, 15>(header[3]), bits<2, 48>(header[1]))};
  const Vw minimums[2] = {bits<0, 63>(header[2]), merge(bits<4, 15>(header[3]), bits<2, 48>(header[2]))};
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    out[i].d = mul(d, byte_at(scales[i / 4], i % 4));
    out[i].m = mul(dmin, byte_at(minimums[i / 4], i % 4));
  }
}

struct Q4K {
  static constexpr int64_t bytes = 144, blocks = 8, together = 1;
  static constexpr int32_t offset = 0;
  static constexpr bool minimum = true;
  static constexpr int scales = 1;
  static constexpr int weight_max = 15;
  [[gnu::always_inline]] static void unpack(const std::byte* p, int64_t stride, Block* out) {
    unpack_scales(p, stride, out);
    for (int i = 0; i < 8; i += 2) {
      Vw nibbles[8];
      load_rows_16_bytes(p + 16 + i * 16, stride, nibbles);
      load_rows_16_bytes(p + 32 + i * 16, stride, nibbles + 4);
#pragma GCC unroll 8
      for (int t = 0; t < 8; ++t)
        out[i].w[t] = low_nibbles(nibbles[t]), out[i + 1].w[t] = high_nibbles(nibbles[t]);
    }
  }
};

struct Q5K {
  static constexpr int64_t bytes = 176, blocks = 8, together = 1;
  static constexpr int32_t offset = 0;
  static constexpr bool minimum = true;
  static constexpr int scales = 1;
  static constexpr int weight_max = 31;
  template <int i>
  [[gnu::always_inline]] static void unpack_two(const std::byte* p, int64_t stride, const Vw* top,
                                                Block* out) {
    Vw nibbles[8];
    load_rows_16_bytes(p + 48 + i * 16, stride, nibbles);
    load_rows_16_bytes(p + 64 + i * 16, stride, nibbles + 4);
#pragma GCC unroll 8
    for (int t = 0; t < 8; ++t) {
      out[i].w[t] = merge(low_nibbles(nibbles[t]), fifth_bit<i>(top[t]));
      out[i + 1].w[t] = merge(high_nibbles(nibbles[t]), fifth_bit<i + 1>(top[t]));
    }
  }
  [[gnu::always_inline]] static void unpack(const std::byte* p, int64_t stride, Block* out) {
    unpack_scales(p, stride, out);
    Vw top[8];
    load_rows_16_bytes(p + 16, stride, top);
    load_rows_16_bytes(p + 32, stride, top + 4);
    unpack_two<0>(p, stride, top, out), unpack_two<2>(p, stride, top, out);
    unpack_two<4>(p, stride, top, out), unpack_two<6>(p, stride, top, out);
  }
};

struct Q6K {
  static constexpr int64_t bytes = 210, blocks = 8, together = 1;
  static constexpr int32_t offset = 32;
  static constexpr bool minimum = false;
  static constexpr int scales = 2;
  static constexpr int weight_max = 63;
  /// The 4 blocks of a half: low and high halves of 64 nibbles, each with its two of the eight top bits.
  [[gnu::always_inline]] static void unpack_half(const std::byte* nibbles, const std::byte* tops,
                                                 int64_t stride, Block* out) {
#pragma GCC unroll 2
    for (int t = 0; t < 8; t += 4) {
      Vw first[4], second[4], top[4];
      load_rows_16_bytes(nibbles + 4 * t, stride, first);
      load_rows_16_bytes(nibbles + 32 + 4 * t, stride, second);
      load_rows_16_bytes(tops + 4 * t, stride, top);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        out[0].w[t + i] = merge(low_nibbles(first[i]), bits<-4, 48>(top[i]));
        out[1].w[t + i] = merge(low_nibbles(second[i]), bits<-2, 48>(top[i]));
        out[2].w[t + i] = merge(high_nibbles(first[i]), bits<0, 48>(top[i]));
        out[3].w[t + i] = merge(high_nibbles(second[i]), bits<2, 48>(top[i]));
      }
    }
  }
  [[gnu::always_inline]] static void unpack(const std::byte* p, int64_t stride, Block* out) {
    const Vf d = half_high(load_rows_u32(p + 206, stride));  // the block's last two bytes
    Vw scales[4];
    load_rows_16_bytes(p + 192, stride, scales);
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      out[i].d = mul(d, signed_byte_at(scales[i / 2], i % 2 * 2));
      out[i].m = mul(d, signed_byte_at(scales[i / 2], i % 2 * 2 + 1));
    }
    unpack_half(p, p + 128, stride, out);
    unpack_half(p + 64, p + 160, stride, out + 4);
  }
};
