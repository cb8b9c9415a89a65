// Products with quantised weights: lane = output. Part of kernels.inl.

/// Takes the offset of the bytes in lanes off a sum. Wraps, as vectors do: a row with a NaN has any sum, and
/// its scale is NaN.
[[gnu::always_inline]] inline int32_t start_of(int32_t offset, int32_t sum) {
  return static_cast<int32_t>(0u - static_cast<uint32_t>(offset) * static_cast<uint32_t>(sum));
}

/// More rows than row_tile are cut into tiles of this many to row_tile.
constexpr int rows_unpacked_min = (row_tile + 1) / 2;

/// Adds one block to the sums of R rows.
template <class F, int R>
inline __attribute__((always_inline)) void add_block(const Block& w, const Activations& x, int64_t row,
                                                     int64_t b, int64_t blocks, Vf (&acc)[R]) {
  constexpr int dwords = 8 / F::scales;  // of w that share a scale
  const int8_t* q = x.q + row * x.columns + b * block_values;
#pragma GCC unroll 2
  for (int part = 0; part < F::scales; ++part) {
    Vi sum[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const int64_t i = (row + r) * blocks + b;
      const int32_t* sums = F::scales == 1 ? x.sum : part == 0 ? x.sum_low : x.sum_high;
      sum[r] = splat_int(F::offset ? start_of(F::offset, sums[i]) : 0);
    }
    add_products<F::weight_max, dwords>(w.w + part * dwords, q + 4 * part * dwords, x.columns, sum);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const int64_t i = (row + r) * blocks + b;
      acc[r] = fma(to_float(sum[r]), mul(part == 0 ? w.d : w.m, splat(x.d[i])), acc[r]);
      if (F::minimum) acc[r] = fma(w.m, splat(x.s[i]), acc[r]);
    }
  }
}

template <int R>
[[gnu::always_inline]] inline void store_rows(const Product& p, int64_t row, int64_t first, Vf (&acc)[R]) {
  alignas(64) float sums[R][lanes];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) store(sums[r], acc[r]);
  for (int r = 0; r < R; ++r) store_outputs(p, row + r, first, sums[r]);
}

/// R rows against weights as stored, unpacked on the way, and kept for more rows if there is room to. `ahead`
/// is fetched meanwhile, as many bytes.
template <class F, int R, bool keep>
void tile_as_stored(const Product& p, int64_t first, const std::byte* tile, const std::byte* ahead,
                    const Activations& x, Block* kept) {
  constexpr int64_t row = 0;
  const int64_t blocks = x.columns / block_values, stride = p.row_bytes;
  Vf acc[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) acc[r] = splat(0);
  int64_t b = 0;
  if constexpr (F::together > 1) {
    for (; b + F::together <= blocks; b += F::together) {
      prefetch<F::bytes * lanes * F::together>(ahead ? ahead + b * F::bytes * lanes : nullptr);
      F::unpack_together(
          tile + b * F::bytes, stride, [&](const Block& w, int i) __attribute__((always_inline)) {
            if (keep) kept[b + i] = w;
            add_block<F, R>(w, x, row, b + i, blocks, acc);
          });
    }
  }
  for (; b < blocks; b += F::blocks) {
    const int64_t at = b / F::blocks * F::bytes;
    prefetch<F::bytes * lanes>(ahead ? ahead + at * lanes : nullptr);
    Block own[keep ? 1 : F::blocks];
    Block* const w = keep ? kept + b : own;
    F::unpack(tile + at, stride, w);
    for (int i = 0; i < F::blocks; ++i) add_block<F, R>(w[i], x, row, b + i, blocks, acc);
  }
  store_rows<R>(p, row, first, acc);
}

/// R rows against a tile that was unpacked before.
template <class F, int R>
void tile_unpacked(const Product& p, int64_t first, const Block* tile, const Activations& x, int64_t row) {
  const int64_t blocks = x.columns / block_values;
  Vf acc[R];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) acc[r] = splat(0);
  for (int64_t b = 0; b < blocks; ++b) add_block<F, R>(tile[b], x, row, b, blocks, acc);
  store_rows<R>(p, row, first, acc);
}

/// The same for R rows or fewer.
template <class F, int R>
void up_to_rows_unpacked(const Product& p, int64_t first, const Block* tile, const Activations& x,
                         int64_t row, int64_t rows) {
  if constexpr (R > rows_unpacked_min)
    if (rows < R) return up_to_rows_unpacked<F, R - 1>(p, first, tile, x, row, rows);
  tile_unpacked<F, R>(p, first, tile, x, row);
}

/// The first R rows or fewer against weights as stored.
template <class F, int R, bool keep>
void up_to_rows_as_stored(const Product& p, int64_t first, const std::byte* tile, const std::byte* ahead,
                          const Activations& x, int64_t rows, Block* kept) {
  if constexpr (R > (keep ? rows_unpacked_min : 1))
    if (rows < R) return up_to_rows_as_stored<F, R - 1, keep>(p, first, tile, ahead, x, rows, kept);
  tile_as_stored<F, R, keep>(p, first, tile, ahead, x, kept);
}

/// All rows: in as few tiles of rows as there can be, of about the same size.
template <class F>
void rows_times_tile(const Product& p, int64_t first, const std::byte* tile, const std::byte* ahead,
                     const Activations& x, Block* unpacked) {
  if (x.rows <= row_tile)
    return up_to_rows_as_stored<F, row_tile, false>(p, first, tile, ahead, x, x.rows, nullptr);
  int64_t tiles = (x.rows + row_tile - 1) / row_tile;
  int64_t rows = (x.rows + tiles - 1) / tiles;
  up_to_rows_as_stored<F, row_tile, true>(p, first, tile, ahead, x, rows, unpacked);
  for (int64_t row = rows; row < x.rows; row += rows) {
    --tiles;
    rows = (x.rows - row + tiles - 1) / tiles;
    up_to_rows_unpacked<F, row_tile>(p, first, unpacked, x, row, rows);
  }
}

template <class F>
void linear_quantized(const Product& p, int64_t first, int64_t last, const Activations& x,
                      std::byte* scratch) {
  Block* unpacked = reinterpret_cast<Block*>((reinterpret_cast<uintptr_t>(scratch) + 63) / 64 * 64);
  std::byte* rows = reinterpret_cast<std::byte*>(unpacked + x.columns / block_values);
  const std::byte* begin = p.weights + first * p.row_bytes;
  const std::byte* end = p.weights + (last < p.outputs ? last : p.outputs) * p.row_bytes;
  // Whole tiles, because a tile is read across its rows.
  const int64_t tile_bytes = output_tile * p.row_bytes;
  const int64_t distance = (prefetch_bytes + tile_bytes - 1) / tile_bytes * tile_bytes;
  if (!p.fetched) {
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
    rows_times_tile<F>(p, o, tile, ahead, x, unpacked);
  }
}
