// The kernels of one instruction set, written once over its 16 lanes. Included by kernels_*.cpp inside an
// anonymous namespace after the lane types: code compiled for one instruction set must not be merged with
// another's by the linker, so nothing here may instantiate a function template that is visible outside.
//
// Lane types:  Vf 16 float32 · Vi 16 int32 · Vw 64 bytes, 4 of each lane
// An operation here means the same bits in every instruction set: fma rounds once, max and min take the
// second operand when one is NaN, sum_lanes adds halves (l and l + 8, l and l + 4, …).

constexpr int64_t lanes = 16;
constexpr int64_t block_values = 32;
constexpr int64_t cache_block = 64;  // tokens of a KV block: kv_block_tokens

// ---- activations ----

/// Blocks below this hold nothing that a product would notice; 127 / amax would overflow near zero.
constexpr float quantized_min = 1e-30f;

void quantize_row(const Activations& x, int64_t row) {
  const int64_t blocks = x.columns / block_values;
  const float* values = x.values + row * x.columns;
  int8_t* q = x.q + row * x.columns;
  for (int64_t b = 0; b < blocks; ++b) {
    const Vf low = load(values + b * block_values), high = load(values + b * block_values + lanes);
    const float amax = max_lanes(vmax(vabs(low), vabs(high)));
    // x·0 is 0, or NaN where x is not finite: it poisons the block's scale, and so every product of this row.
    const float poison = sum_lanes(fma(high, splat(0), mul(low, splat(0))));
    const bool tiny = amax < quantized_min;
    const float d = (tiny ? 0 : amax / 127) + poison, inverse = tiny ? 0 : 127 / amax;
    const Vi low_q = round_to_int(mul(low, splat(inverse))), high_q = round_to_int(mul(high, splat(inverse)));
    store_int8(q + b * block_values, low_q);
    store_int8(q + b * block_values + lanes, high_q);
    const int32_t sum = sum_lanes(add(low_q, high_q));
    const int64_t i = row * blocks + b;
    x.d[i] = d;
    x.sum[i] = sum;
    x.s[i] = d * static_cast<float>(sum);
  }
}

/// e^x for finite x up to 88, 0 far below; Cody-Waite reduction and a Taylor polynomial, relative error <
/// 3e-7.
Vf vexp(Vf x) {
  x = vmin(splat(88), vmax(splat(-87), x));
  const Vi n = round_to_int(mul(x, splat(1.44269504f)));
  const Vf k = to_float(n);
  const Vf r = fma(k, splat(2.12194440e-4f), fma(k, splat(-0.693359375f), x));
  Vf p = splat(1.f / 5040);
  p = fma(p, r, splat(1.f / 720));
  p = fma(p, r, splat(1.f / 120));
  p = fma(p, r, splat(1.f / 24));
  p = fma(p, r, splat(1.f / 6));
  p = fma(p, r, splat(0.5f));
  p = fma(p, r, splat(1));
  p = fma(p, r, splat(1));
  return mul(p, power_of_two(n));
}

Vf silu(Vf x) { return divide(x, add(splat(1), vexp(sub(splat(0), x)))); }

/// h may be nullptr: only the sum is wanted then.
void add_norm(float* x, const float* delta, const float* w, float eps, float* h, int64_t width) {
  Vf squares = splat(0);
  for (int64_t i = 0; i < width; i += lanes) {
    const int64_t n = width - i;
    Vf v = n < lanes ? load_part(x + i, n) : load(x + i);
    if (delta) {
      v = add(v, n < lanes ? load_part(delta + i, n) : load(delta + i));
      n < lanes ? store_part(x + i, v, n) : store(x + i, v);
    }
    squares = fma(v, v, squares);
  }
  if (!h) return;
  const Vf scale = splat(1 / __builtin_sqrtf(sum_lanes(squares) / static_cast<float>(width) + eps));
  for (int64_t i = 0; i < width; i += lanes) {
    const int64_t n = width - i;
    if (n < lanes)
      store_part(h + i, mul(mul(load_part(x + i, n), scale), load_part(w + i, n)), n);
    else
      store(h + i, mul(mul(load(x + i), scale), load(w + i)));
  }
}

// ---- products with quantised weights: lane = output ----

/// One block of 32 columns of 16 outputs. w[t] holds columns 4t … 4t + 3 as bytes: the stored value plus
/// F::offset.
struct Block {
  Vw w[8];
  Vf d, m;
};

struct Q41 {
  static constexpr int64_t bytes = 20;
  static constexpr int64_t together = 4;  // blocks: 80 bytes are five times 16
  static constexpr int32_t offset = 0;
  static constexpr bool minimum = true;
  static Vi product(Vi sum, Vw w, const int8_t* x) { return dot(sum, w, x); }
  [[gnu::always_inline]] static void unpack(const std::byte* p, int64_t stride, Block& out) {
    const Vi header = load_rows_u32(p, stride);
    out.d = half_low(header);
    out.m = half_high(header);
    Vw nibbles[4];
    load_rows_16_bytes(p + 4, stride, nibbles);
#pragma GCC unroll 4
    for (int t = 0; t < 4; ++t) out.w[t] = low_nibbles(nibbles[t]), out.w[4 + t] = high_nibbles(nibbles[t]);
  }
  [[gnu::always_inline]] static void unpack_together(const std::byte* p, int64_t stride, Block* out) {
    Vw dwords[20];
#pragma GCC unroll 5
    for (int i = 0; i < 5; ++i) load_rows_16_bytes(p + 16 * i, stride, dwords + 4 * i);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const Vi header = as_ints(dwords[5 * i]);
      out[i].d = half_low(header);
      out[i].m = half_high(header);
#pragma GCC unroll 4
      for (int t = 0; t < 4; ++t) {
        out[i].w[t] = low_nibbles(dwords[5 * i + 1 + t]);
        out[i].w[4 + t] = high_nibbles(dwords[5 * i + 1 + t]);
      }
    }
  }
};

struct Q40 {
  static constexpr int64_t together = 1;
  static constexpr int64_t bytes = 18;
  static constexpr int32_t offset = 8;
  static constexpr bool minimum = false;
  static Vi product(Vi sum, Vw w, const int8_t* x) { return dot(sum, w, x); }
  [[gnu::always_inline]] static void unpack(const std::byte* p, int64_t stride, Block& out) {
    out.d = half_low(load_rows_u32(p, stride));
    Vw nibbles[4];
    load_rows_16_bytes(p + 2, stride, nibbles);
#pragma GCC unroll 4
    for (int t = 0; t < 4; ++t) out.w[t] = low_nibbles(nibbles[t]), out.w[4 + t] = high_nibbles(nibbles[t]);
  }
};

struct Q80 {
  static constexpr int64_t together = 1;
  static constexpr int64_t bytes = 34;
  static constexpr int32_t offset = signed_offset;
  static constexpr bool minimum = false;
  static Vi product(Vi sum, Vw w, const int8_t* x) { return dot_signed(sum, w, x); }
  [[gnu::always_inline]] static void unpack(const std::byte* p, int64_t stride, Block& out) {
    out.d = half_low(load_rows_u32(p, stride));
    load_rows_16_bytes(p + 2, stride, out.w);
    load_rows_16_bytes(p + 18, stride, out.w + 4);
#pragma GCC unroll 8
    for (int t = 0; t < 8; ++t) out.w[t] = prepare_signed(out.w[t]);
  }
};

/// Adds one block to the sums of R rows.
template <class F, int R>
inline __attribute__((always_inline)) void add_block(const Block& w, const Activations& x, int64_t row,
                                                     int64_t b, int64_t blocks, Vf (&acc)[R]) {
  Vi sum[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) sum[r] = splat_int(F::offset ? -F::offset * x.sum[(row + r) * blocks + b] : 0);
  const int8_t* q = x.q + row * x.columns + b * block_values;
#pragma GCC unroll 8
  for (int t = 0; t < 8; ++t) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) sum[r] = F::product(sum[r], w.w[t], q + r * x.columns + 4 * t);
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const int64_t i = (row + r) * blocks + b;
    acc[r] = fma(to_float(sum[r]), mul(w.d, splat(x.d[i])), acc[r]);
    if (F::minimum) acc[r] = fma(w.m, splat(x.s[i]), acc[r]);
  }
}

void store_outputs(const Product& p, int64_t row, int64_t first, Vf acc) {
  float* out = p.out + row * p.outputs + first;
  const int64_t n = p.outputs - first;
  if (p.gate)
    acc = mul(silu(n < lanes ? load_part(out, n) : load(out)), acc);
  else if (p.bias)
    acc = add(acc, n < lanes ? load_part(p.bias + first, n) : load(p.bias + first));
  n < lanes ? store_part(out, acc, n) : store(out, acc);
}

/// Into the second cache: tiles of wide matrices, and what other rows of the tile still need, fill the first.
[[gnu::always_inline]] inline void fetch_line(const std::byte* p) { __builtin_prefetch(p, 0, 2); }

/// Fetches the lines of `size` bytes; nothing from nullptr.
template <int64_t size>
[[gnu::always_inline]] inline void prefetch(const std::byte* p) {
  if (!p) return;
#pragma GCC unroll 32
  for (int64_t at = 0; at < size; at += 64) fetch_line(p + at);
}

/// Up to so many rows, unpacking a tile for its own sake does not pay.
constexpr int64_t rows_as_stored_max = 4;

/// R rows against weights as stored: unpacked on the way, used once. `ahead` is fetched meanwhile, as many
/// bytes.
template <class F, int R>
void tile_as_stored(const Product& p, int64_t first, const std::byte* tile, const std::byte* ahead,
                    const Activations& x) {
  constexpr int64_t row = 0;
  const int64_t blocks = x.columns / block_values, stride = p.row_bytes;
  Vf acc[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) acc[r] = splat(0);
  int64_t b = 0;
  if constexpr (F::together > 1) {
    for (; b + F::together <= blocks; b += F::together) {
      prefetch<F::bytes * lanes * F::together>(ahead ? ahead + b * F::bytes * lanes : nullptr);
      Block w[F::together];
      F::unpack_together(tile + b * F::bytes, stride, w);
#pragma GCC unroll 4
      for (int i = 0; i < F::together; ++i) add_block<F, R>(w[i], x, row, b + i, blocks, acc);
    }
  }
  for (; b < blocks; ++b) {
    prefetch<F::bytes * lanes>(ahead ? ahead + b * F::bytes * lanes : nullptr);
    Block w;
    F::unpack(tile + b * F::bytes, stride, w);
    add_block<F, R>(w, x, row, b, blocks, acc);
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) store_outputs(p, row + r, first, acc[r]);
}

/// R rows against a tile that was unpacked before.
template <class F, int R>
void tile_unpacked(const Product& p, int64_t first, const Block* tile, const Activations& x, int64_t row) {
  const int64_t blocks = x.columns / block_values;
  Vf acc[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) acc[r] = splat(0);
  for (int64_t b = 0; b < blocks; ++b) add_block<F, R>(tile[b], x, row, b, blocks, acc);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) store_outputs(p, row + r, first, acc[r]);
}

template <class F>
void linear_quantized(const Product& p, int64_t first, int64_t last, const Activations& x,
                      std::byte* scratch) {
  const int64_t blocks = x.columns / block_values;
  Block* unpacked = reinterpret_cast<Block*>((reinterpret_cast<uintptr_t>(scratch) + 63) / 64 * 64);
  std::byte* rows = reinterpret_cast<std::byte*>(unpacked + blocks);
  const bool as_stored = x.rows <= rows_as_stored_max;
  const std::byte* begin = p.weights + first * p.row_bytes;
  const std::byte* end = p.weights + (last < p.outputs ? last : p.outputs) * p.row_bytes;
  // Whole tiles, because a tile is read across its rows.
  const int64_t tile_bytes = output_tile * p.row_bytes;
  const int64_t distance = (prefetch_bytes + tile_bytes - 1) / tile_bytes * tile_bytes;
  if (as_stored && !p.fetched) {
    for (const std::byte* at = begin; at < end && at < begin + distance; at += 64) fetch_line(at);
  }
  for (int64_t o = first; o < last; o += output_tile) {
    const std::byte* tile = p.weights + o * p.row_bytes;
    const std::byte* ahead = tile + distance;
    if (ahead >= end) ahead = p.next ? p.next + (ahead - end) : nullptr;
    if (p.outputs - o < output_tile) {  // fewer than 16 rows left: zeros stand for the others
      const size_t have = static_cast<size_t>((p.outputs - o) * p.row_bytes);
      __builtin_memcpy(rows, tile, have);
      __builtin_memset(rows + have, 0, static_cast<size_t>(output_tile * p.row_bytes) - have);
      tile = rows;
    }
    if (as_stored) {
      switch (x.rows) {
        case 1:
          tile_as_stored<F, 1>(p, o, tile, ahead, x);
          break;
        case 2:
          tile_as_stored<F, 2>(p, o, tile, ahead, x);
          break;
        case 3:
          tile_as_stored<F, 3>(p, o, tile, ahead, x);
          break;
        case 4:
          tile_as_stored<F, 4>(p, o, tile, ahead, x);
          break;
      }
      continue;
    }
    for (int64_t b = 0; b < blocks; ++b) F::unpack(tile + b * F::bytes, p.row_bytes, unpacked[b]);
    int64_t row = 0;
    for (; row + row_tile <= x.rows; row += row_tile) tile_unpacked<F, row_tile>(p, o, unpacked, x, row);
    for (; row + 2 <= x.rows; row += 2) tile_unpacked<F, 2>(p, o, unpacked, x, row);
    for (; row < x.rows; ++row) tile_unpacked<F, 1>(p, o, unpacked, x, row);
  }
}

// ---- products with float weights: lane = column mod 16 ----

/// O outputs times R rows.
template <class T, int O, int R>
void tile_float(const Product& p, int64_t first, const Activations& x, int64_t row) {
  const T* w = reinterpret_cast<const T*>(p.weights + first * p.row_bytes);
  const float* v = x.values + row * x.columns;
  Vf acc[O][R];
#pragma GCC unroll 4
  for (int o = 0; o < O; ++o) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) acc[o][r] = splat(0);
  }
  for (int64_t c = 0; c < x.columns; c += lanes) {
    const int64_t n = x.columns - c;
    Vf values[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const float* from = v + r * x.columns + c;
      values[r] = n < lanes ? load_part(from, n) : load(from);
    }
#pragma GCC unroll 4
    for (int o = 0; o < O; ++o) {
      const T* from = w + o * x.columns + c;
      const Vf weight = n < lanes ? load_part(from, n) : load(from);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) acc[o][r] = fma(weight, values[r], acc[o][r]);
    }
  }
#pragma GCC unroll 4
  for (int o = 0; o < O; ++o) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      float* out = p.out + (row + r) * p.outputs + first + o;
      const float sum = sum_lanes(acc[o][r]);
      if (p.gate)
        store_part(out, mul(silu(splat(*out)), splat(sum)), 1);
      else
        *out = p.bias ? sum + p.bias[first + o] : sum;
    }
  }
}

template <class T, int O>
void tile_float_rows(const Product& p, int64_t first, const Activations& x) {
  int64_t row = 0;
  for (; row + 4 <= x.rows; row += 4) tile_float<T, O, 4>(p, first, x, row);
  for (; row < x.rows; ++row) tile_float<T, O, 1>(p, first, x, row);
}

template <class T>
void linear_float(const Product& p, int64_t first, int64_t last, const Activations& x) {
  int64_t o = first;
  for (; o + 4 <= last; o += 4) tile_float_rows<T, 4>(p, o, x);
  for (; o < last; ++o) tile_float_rows<T, 1>(p, o, x);
}

void linear(const Product& p, int64_t first, int64_t last, const Activations& x, std::byte* scratch) {
  switch (p.type) {
    case model::DType::q4_1:
      return linear_quantized<Q41>(p, first, last, x, scratch);
    case model::DType::q4_0:
      return linear_quantized<Q40>(p, first, last, x, scratch);
    case model::DType::q8_0:
      return linear_quantized<Q80>(p, first, last, x, scratch);
    case model::DType::f32:
      return linear_float<float>(p, first, last, x);
    case model::DType::f16:
      return linear_float<Half>(p, first, last, x);
    case model::DType::bf16:
      return linear_float<Bfloat>(p, first, last, x);
    case model::DType::f8_e4m3:
    case model::DType::iq4_nl:
    case model::DType::q4_k:
    case model::DType::q5_k:
    case model::DType::q6_k:
    case model::DType::i64:
      break;
  }
  __builtin_abort();  // FastBackend::adopt let no other type in
}

// ---- attention ----

int64_t keys_of(const AttentionTask& a, int64_t query) { return a.first_position + query / a.group + 1; }
const float* query_of(const AttentionTask& a, int64_t query) {
  return a.q + query / a.group * a.row_stride + query % a.group * a.head_dim;
}
float* out_of(const AttentionTask& a, int64_t query) {
  return a.out + query / a.group * a.row_stride + query % a.group * a.head_dim;
}

/// Scores of Q queries against the 64 keys of one block; lane = key. Lanes past a query's own position hold
/// what lies there, and softmax leaves them out.
template <int Q>
void score_block(const AttentionTask& a, int64_t query, int64_t block, int64_t stride) {
  const float* keys = a.keys + static_cast<int64_t>(a.blocks[block]) * cache_block * a.width;
  const float* q[Q];
  for (int i = 0; i < Q; ++i) q[i] = query_of(a, query + i);
  constexpr int strips = score_strips;  // of 16 keys at once
  for (int64_t k = 0; k < cache_block; k += strips * lanes) {
    Vf acc[Q][strips];
#pragma GCC unroll 4
    for (int i = 0; i < Q; ++i) {
#pragma GCC unroll 4
      for (int s = 0; s < strips; ++s) acc[i][s] = splat(0);
    }
    for (int64_t d = 0; d < a.head_dim; ++d) {
      Vf key[strips];
#pragma GCC unroll 4
      for (int s = 0; s < strips; ++s) key[s] = load(keys + d * cache_block + k + s * lanes);
#pragma GCC unroll 4
      for (int i = 0; i < Q; ++i) {
        const Vf value = splat(q[i][d]);
#pragma GCC unroll 4
        for (int s = 0; s < strips; ++s) acc[i][s] = fma(value, key[s], acc[i][s]);
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < Q; ++i) {
      float* out = a.scores + (query + i) * stride + block * cache_block + k;
#pragma GCC unroll 4
      for (int s = 0; s < strips; ++s) store(out + s * lanes, mul(acc[i][s], splat(a.scale)));
    }
  }
}

/// Turns a query's scores into e^(score − max); returns 1 / their sum.
float softmax(float* scores, int64_t keys) {
  const int64_t whole = keys / lanes * lanes, rest = keys - whole;
  Vf largest = splat(-__builtin_inff());
  for (int64_t k = 0; k < whole; k += lanes) largest = vmax(largest, load(scores + k));
  if (rest) largest = vmax(largest, keep(load(scores + whole), rest, -__builtin_inff()));
  const Vf top = splat(max_lanes(largest));
  Vf sum = splat(0);
  for (int64_t k = 0; k < whole; k += lanes) {
    const Vf e = vexp(sub(load(scores + k), top));
    store(scores + k, e);
    sum = add(sum, e);
  }
  if (rest) {
    const Vf e = keep(vexp(sub(load(scores + whole), top)), rest, 0);
    store(scores + whole, e);
    sum = add(sum, e);
  }
  return 1 / sum_lanes(sum);
}

/// Adds probabilities times values of keys [first, last) of one block to 16·D dimensions of Q queries; lane =
/// dimension.
template <int Q, int D>
void add_values(const AttentionTask& a, int64_t query, int64_t dim, int64_t block, int64_t first,
                int64_t last, int64_t stride) {
  const float* values = a.values + static_cast<int64_t>(a.blocks[block]) * cache_block * a.width + dim;
  const float* p[Q];
  Vf acc[Q][D];
#pragma GCC unroll 4
  for (int i = 0; i < Q; ++i) {
    p[i] = a.scores + (query + i) * stride + block * cache_block;
#pragma GCC unroll 4
    for (int d = 0; d < D; ++d) acc[i][d] = load(out_of(a, query + i) + dim + d * lanes);
  }
  for (int64_t k = first; k < last; ++k) {
    Vf value[D];
#pragma GCC unroll 4
    for (int d = 0; d < D; ++d) value[d] = load(values + k * a.width + d * lanes);
#pragma GCC unroll 4
    for (int i = 0; i < Q; ++i) {
      const Vf weight = splat(p[i][k]);
#pragma GCC unroll 4
      for (int d = 0; d < D; ++d) acc[i][d] = fma(weight, value[d], acc[i][d]);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < Q; ++i) {
#pragma GCC unroll 4
    for (int d = 0; d < D; ++d) store(out_of(a, query + i) + dim + d * lanes, acc[i][d]);
  }
}

template <int Q>
void add_values(const AttentionTask& a, int64_t query, int64_t block, int64_t first, int64_t last,
                int64_t stride) {
  int64_t dim = 0;
  for (; dim + 4 * lanes <= a.head_dim; dim += 4 * lanes)
    add_values<Q, 4>(a, query, dim, block, first, last, stride);
  for (; dim < a.head_dim; dim += lanes) add_values<Q, 1>(a, query, dim, block, first, last, stride);
}

void attention(const AttentionTask& a) {
  const int64_t keys_max = keys_of(a, a.queries - 1);
  const int64_t blocks = (keys_max + cache_block - 1) / cache_block, stride = blocks * cache_block;
  // Queries of one tile see up to a few keys more than each other: shared up to the shortest, then one by
  // one.
  for (int64_t b = 0; b < blocks; ++b) {
    int64_t query = 0;
    for (; query + 3 <= a.queries; query += 3) score_block<3>(a, query, b, stride);
    for (; query < a.queries; ++query) score_block<1>(a, query, b, stride);
  }
  for (int64_t query = 0; query < a.queries; ++query) {
    const float scale = softmax(a.scores + query * stride, keys_of(a, query));
    float* out = out_of(a, query);
    for (int64_t d = 0; d < a.head_dim; d += lanes) store(out + d, splat(0));
    a.inverse[query] = scale;
  }
  for (int64_t b = 0; b < blocks; ++b) {
    const auto last = [&](int64_t query) {
      const int64_t n = keys_of(a, query) - b * cache_block;
      return n < 0 ? 0 : n < cache_block ? n : cache_block;
    };
    int64_t query = 0;
    for (; query + 3 <= a.queries; query += 3) {
      const int64_t shared = last(query);
      add_values<3>(a, query, b, 0, shared, stride);
      for (int i = 1; i < 3; ++i) add_values<1>(a, query + i, b, shared, last(query + i), stride);
    }
    for (; query < a.queries; ++query) add_values<1>(a, query, b, 0, last(query), stride);
  }
  for (int64_t query = 0; query < a.queries; ++query) {
    float* out = out_of(a, query);
    const Vf scale = splat(a.inverse[query]);
    for (int64_t d = 0; d < a.head_dim; d += lanes) store(out + d, mul(load(out + d), scale));
  }
}

constexpr KernelTable make_table(const char* name) {
  return {name, quantize_row, linear, add_norm, attention};
}
