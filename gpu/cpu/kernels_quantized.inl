// Products with quantised weights: lane = output. Part of kernels.inl.

/// Takes the offset of the bytes in lanes off a sum. Wraps, as vectors do: a row with a NaN has any sum, and
/// its scale is NaN.
[[gnu::always_inline]] inline int32_t start_of(int32_t offset, int32_t sum) {
  return static_cast<int32_t>(0u - static_cast<uint32_t>(offset) * static_cast<uint32_t>(sum));
}

/// Adds a block of each of T tiles, `apart` blocks from each other, to the sums of R rows.
template <class F, int T, int R>
inline __attribute__((always_inline)) void add_blocks(const Block* w, int64_t apart, const Activations& x,
                                                      int64_t row, int64_t b, int64_t blocks,
                                                      Vf (&acc)[T][R]) {
  constexpr int dwords = 8 / F::scales;  // of w that share a scale
  const int8_t* q = x.q + row * x.columns + b * block_values;
#pragma GCC unroll 2
  for (int part = 0; part < F::scales; ++part) {
    const Vw* weights[T];
    Vi sum[T][R];
#pragma GCC unroll 2
    for (int t = 0; t < T; ++t) {
      weights[t] = w[t * apart].w + part * dwords;
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const int64_t i = (row + r) * blocks + b;
        const int32_t* sums = F::scales == 1 ? x.sum : part == 0 ? x.sum_low : x.sum_high;
        sum[t][r] = splat_int(F::offset ? start_of(F::offset, sums[i]) : 0);
      }
    }
    add_products<F::weight_max, dwords>(weights, q + 4 * part * dwords, x.columns, sum);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const int64_t i = (row + r) * blocks + b;
      const Vf d = splat(x.d[i]);
#pragma GCC unroll 2
      for (int t = 0; t < T; ++t) {
        const Block& own = w[t * apart];
        acc[t][r] = fma(to_float(sum[t][r]), mul(part == 0 ? own.d : own.m, d), acc[t][r]);
        if (F::minimum) acc[t][r] = fma(own.m, splat(x.s[i]), acc[t][r]);
      }
    }
  }
}

template <int T, int R>
[[gnu::always_inline]] inline void clear(Vf (&acc)[T][R]) {
#pragma GCC unroll 2
  for (int t = 0; t < T; ++t) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) acc[t][r] = splat(0);
  }
}

template <int T, int R>
[[gnu::always_inline]] inline void store_rows(const Product& p, int64_t row, int64_t first, Vf (&acc)[T][R]) {
  if (!p.bias && !p.gate && first + T * output_tile <= p.outputs) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
      for (int t = 0; t < T; ++t) store(p.out + (row + r) * p.outputs + first + t * output_tile, acc[t][r]);
    }
    return;
  }
  alignas(64) float sums[R][T][lanes];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
    for (int t = 0; t < T; ++t) store(sums[r][t], acc[t][r]);
  }
  for (int r = 0; r < R; ++r) {
    for (int t = 0; t < T; ++t) store_outputs(p, row + r, first + t * output_tile, sums[r][t]);
  }
}

/// Weights that are read later: those of the same product up to `end`, and then where the next one begins.
struct LaterWeights {
  const std::byte *begin, *end, *next;
  int64_t bytes;  // of those to fetch, from `begin` on
  int64_t fetched = 0;

  const std::byte* at(int64_t offset) const {
    const std::byte* here = begin + offset;
    return here < end ? here : next ? next + (here - end) : nullptr;
  }
  int64_t lines_left() const { return (bytes - fetched) / 64; }
  [[gnu::always_inline]] void fetch(int64_t lines) {
    for (; lines > 0 && fetched < bytes; --lines, fetched += 64)
      if (const std::byte* line = at(fetched)) fetch_line(line);
  }
};

/// The first R rows against weights that are unpacked on the way, and kept for more rows if there is room
/// to. As many bytes as there are in the tile are fetched of `later` meanwhile; if it is kept, `lines` of
/// each of F's blocks.
template <class F, int R, bool keep>
void tile_packed(const Product& p, int64_t first, const std::byte* tile, LaterWeights& later,
                    int64_t lines, const Activations& x, Block* kept) {
  const int64_t blocks = x.columns / block_values;
  const std::byte* const ahead = later.at(0);
  // A few lines with each block: more at once wait for each other, and what is computed with waits for them.
  const auto fetch_beside = [&](int64_t block) __attribute__((always_inline)) {
    if (keep)
      later.fetch(lines);
    else
      prefetch<F::bytes * lanes>(ahead ? ahead + block * F::bytes * lanes : nullptr);
  };
  Vf acc[1][R];
  clear(acc);
  for (int64_t b = 0; b < blocks; b += F::blocks) {
    fetch_beside(b / F::blocks);
    Block own[keep ? 1 : F::blocks];
    Block* const w = keep ? kept + b : own;
    F::unpack(tile + b / F::blocks * F::bytes * lanes, w);
    for (int i = 0; i < F::blocks; ++i) add_blocks<F>(w + i, 0, x, 0, b + i, blocks, acc);
  }
  store_rows(p, 0, first, acc);
}

/// The first R rows or fewer.
template <class F, int R, bool keep>
void up_to_rows_packed(const Product& p, int64_t first, const std::byte* tile, LaterWeights& later,
                          int64_t lines, const Activations& x, int64_t rows, Block* kept) {
  if constexpr (R > 1)
    if (rows < R) return up_to_rows_packed<F, R - 1, keep>(p, first, tile, later, lines, x, rows, kept);
  tile_packed<F, R, keep>(p, first, tile, later, lines, x, kept);
}

/// Rows from `row` on against T tiles that were unpacked before.
template <class F, int T>
void rows_unpacked(const Product& p, int64_t first, const Block* tiles, const Activations& x, int64_t row,
                   LaterWeights& later) {
  const int64_t blocks = x.columns / block_values, steps = (x.rows - row + row_tile - 1) / row_tile * blocks;
  const int64_t lines = (later.lines_left() + steps - 1) / steps;
  for (; row < x.rows; row += row_tile) {
    Vf acc[T][row_tile];
    clear(acc);
    for (int64_t b = 0; b < blocks; ++b) {
      later.fetch(lines);
      add_blocks<F>(tiles + b, blocks, x, row, b, blocks, acc);
    }
    store_rows(p, row, first, acc);
  }
}

template <class F>
void linear_quantized(const Product& p, int64_t first, int64_t last, const Activations& x,
                      std::byte* scratch) {
  const int64_t blocks = x.columns / block_values;
  Block* unpacked = reinterpret_cast<Block*>((reinterpret_cast<uintptr_t>(scratch) + 63) / 64 * 64);
  const std::byte* begin = p.weights + first * p.row_bytes;
  const std::byte* end = p.weights + (last + output_tile - 1) / output_tile * output_tile * p.row_bytes;
  const int64_t tile_bytes = output_tile * p.row_bytes;
  // All, if they are few; else those that make no whole tile of rows, or the first one, are computed while
  // weights are unpacked.
  constexpr int at_once = F::blocks == 1 ? rows_at_once : row_tile;  // more blocks are too many registers
  const int64_t first_rows = x.rows <= at_once ? x.rows : (x.rows - 1) % row_tile + 1;
  const bool more = x.rows > first_rows;
  const int64_t tiles_ahead = (prefetch_bytes + tile_bytes - 1) / tile_bytes;
  const int64_t distance = (more && tiles_ahead < tiles_together ? tiles_together : tiles_ahead) * tile_bytes;
  // Fetched evenly, while tiles are unpacked and while they are multiplied: at once lines wait for each
  // other.
  const int64_t lines = F::bytes * lanes / 64 * (unpacking_rows + first_rows) / (unpacking_rows + x.rows);
  if (!p.fetched) {
    for (const std::byte* at = begin; at < end && at < begin + distance; at += 64) fetch_line(at);
  }
  int64_t waiting = 0;  // tiles that are unpacked, for the other rows
  LaterWeights later{};
  for (int64_t o = first; o < last; o += output_tile) {
    const std::byte* tile = p.weights + o * p.row_bytes;
    if (waiting == 0) later = {tile + distance, end, p.next, (more ? tiles_together : 1) * tile_bytes};
    if (!more) {
      up_to_rows_packed<F, at_once, false>(p, o, tile, later, lines, x, first_rows, nullptr);
      continue;
    }
    up_to_rows_packed<F, row_tile, true>(p, o, tile, later, lines, x, first_rows,
                                            unpacked + waiting * blocks);
    if (++waiting == tiles_together) {
      rows_unpacked<F, tiles_together>(p, o - (tiles_together - 1) * output_tile, unpacked, x, first_rows,
                                       later);
      waiting = 0;
    } else if (o + output_tile >= last) {
      rows_unpacked<F, 1>(p, o, unpacked, x, first_rows, later);
    }
  }
}
