// Products with float weights, widened to float32 on the way: lane = column mod 16. Part of kernels.inl.

/// Columns of weights that are widened at once: 16 outputs of them are 16 KB, half of a first cache, where
/// rows of activations that lie a multiple of 4 KB apart take the same few places.
constexpr int64_t strip_columns = float_strip_columns;
/// Rows that share a widened strip; their sums wait in scratch between strips.
constexpr int64_t strip_rows = float_strip_rows;

/// Whether weights have scales of their own. Only then is what load() gives not yet the weight.
template <class T>
constexpr bool scaled = false;
template <>
constexpr bool scaled<Float8> = true;
template <>
constexpr bool scaled<Int8> = true;
/// What load() leaves of a weight, for its scale to bring.
template <class T>
constexpr float unit = 1;
template <>
constexpr float unit<Float8> = float8_unit;

/// Weights of so many columns have one scale, and of 8-bit floats so many rows.
constexpr int64_t scale_block = model::fp8_block;

/// Scale of output o in the columns from `column` on, a multiple of scale_block.
template <class T, class Matrix>
float scale_of(const Matrix& p, int64_t o, int64_t column, int64_t columns) {
  if (!p.scales) return unit<T>;
  const int64_t across = (columns + scale_block - 1) / scale_block;
  const int64_t index = p.type == model::DType::i8 ? o : o / scale_block * across + column / scale_block;
  float scale;
  __builtin_memcpy(&scale, p.scales + index * static_cast<int64_t>(sizeof scale), sizeof scale);
  return unit<T> * scale;
}

/// The weights of O outputs, [O, stride] from the first column on, and lines to fetch while they are read.
template <class T>
struct Strip {
  const T* w;
  int64_t stride;
  const std::byte* ahead;        // as many bytes as w has, or nullptr
  const float* scale = nullptr;  // [O], if T has any
};

/// Adds 16 columns, or the `rest` < 16 that are left, of O outputs times R rows of v to their sums.
template <bool whole, class T, int O, int R>
[[gnu::always_inline]] inline void add_lanes(const Strip<T>& strip, const float* v, int64_t stride, int64_t c,
                                             int64_t rest, Vf (&acc)[O][R]) {
  Vf values[R];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    const float* from = v + r * stride + c;
    values[r] = whole ? load(from) : load_part(from, rest);
  }
#pragma GCC unroll 4
  for (int o = 0; o < O; ++o) {
    const T* from = strip.w + o * strip.stride + c;
    Vf weight = whole ? load(from) : load_part(from, rest);
    if constexpr (scaled<T>) weight = mul(weight, splat(strip.scale[o]));
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) acc[o][r] = fma(weight, values[r], acc[o][r]);
  }
}
/// Adds `columns` columns of O outputs times R rows of v, each `stride` apart, to their sums.
template <class T, int O, int R>
[[gnu::always_inline]] inline void add_columns(const Strip<T>& strip, const float* v, int64_t stride,
                                               int64_t columns, Vf (&acc)[O][R]) {
  constexpr int64_t line = 64 / static_cast<int64_t>(sizeof(T));  // columns of weights in a cache line
  int64_t c = 0;
  if (strip.ahead) {
    for (; c + line <= columns; c += line) {
      for (int o = 0; o < O; ++o)
        fetch_line(strip.ahead + (o * strip.stride + c) * static_cast<int64_t>(sizeof(T)));
#pragma GCC unroll 4
      for (int64_t i = 0; i < line; i += lanes) add_lanes<true>(strip, v, stride, c + i, lanes, acc);
    }
  }
  for (; c + lanes <= columns; c += lanes) add_lanes<true>(strip, v, stride, c, lanes, acc);
  if (c < columns) add_lanes<false>(strip, v, stride, c, columns - c, acc);
}

/// Products of rows with 16 outputs, one row after the other, until store_outputs takes them.
struct Results {
  alignas(64) float values[strip_rows][output_tile] = {};
};

void store_results(const Product& p, int64_t first, int64_t row, int64_t rows, const Results& results) {
  for (int64_t r = 0; r < rows; ++r) store_outputs(p, row + r, first, results.values[r]);
}

/// O outputs from `first` + o on times R rows against weights as stored.
template <class T, int O, int R>
void tile_float_as_stored(const Product& p, int64_t first, int64_t o, const Activations& x, int64_t row,
                          const std::byte* ahead, Results& results) {
  const T* w = reinterpret_cast<const T*>(p.weights + (first + o) * p.row_bytes);
  Vf acc[O][R];
#pragma GCC unroll 4
  for (int i = 0; i < O; ++i) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) acc[i][r] = splat(0);
  }
  const float* v = x.values + row * x.columns;
  if constexpr (scaled<T>) {
    for (int64_t c = 0; c < x.columns; c += scale_block) {
      float scale[O];
      for (int i = 0; i < O; ++i) scale[i] = scale_of<T>(p, first + o + i, c, x.columns);
      const int64_t left = x.columns - c;
      add_columns<T, O, R>({w + c, x.columns, ahead ? ahead + c : nullptr, scale}, v + c, x.columns,
                           left < scale_block ? left : scale_block, acc);
    }
  } else {
    add_columns<T, O, R>({w, x.columns, ahead}, v, x.columns, x.columns, acc);
  }
#pragma GCC unroll 4
  for (int i = 0; i < O; ++i) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) results.values[row + r][o + i] = sum_lanes(acc[i][r]);
  }
}

/// The same for R rows or fewer.
template <class T, int O, int R>
void up_to_rows_float(const Product& p, int64_t first, int64_t o, const Activations& x, int64_t row,
                      int64_t rows, const std::byte* ahead, Results& results) {
  if constexpr (R > 1)
    if (rows < R) return up_to_rows_float<T, O, R - 1>(p, first, o, x, row, rows, ahead, results);
  tile_float_as_stored<T, O, R>(p, first, o, x, row, ahead, results);
}

/// Calls use(first row, rows) for as few tiles of up to float_rows rows as there can be, of about the same
/// size.
template <class Use>
[[gnu::always_inline]] inline void for_row_tiles(int64_t rows, const Use& use) {
  int64_t tiles = (rows + float_rows - 1) / float_rows;
  for (int64_t row = 0, count; row < rows; row += count, --tiles) {
    count = (rows - row + tiles - 1) / tiles;
    use(row, count);
  }
}

template <class T, int O>
void tile_float_as_stored(const Product& p, int64_t first, int64_t o, const Activations& x,
                          const std::byte* ahead, Results& results) {
  for_row_tiles(x.rows, [&](int64_t row, int64_t rows) {
    up_to_rows_float<T, O, float_rows>(p, first, o, x, row, rows, row == 0 ? ahead : nullptr, results);
  });
}

/// Few rows: each weight is used as soon as it is widened.
template <class T>
void linear_float_as_stored(const Product& p, int64_t first, int64_t last, const Activations& x) {
  constexpr int64_t outputs = 4;
  const std::byte* end = p.weights + last * p.row_bytes;
  Results results;
  for (int64_t tile = first; tile < last; tile += output_tile) {
    const int64_t count = last - tile < output_tile ? last - tile : output_tile;
    int64_t o = 0;
    for (; o + outputs <= count; o += outputs) {
      const std::byte* ahead = p.weights + (tile + o + outputs) * p.row_bytes;
      if (ahead >= end) ahead = p.next;
      tile_float_as_stored<T, outputs>(p, tile, o, x, ahead, results);
    }
    for (; o < count; ++o) tile_float_as_stored<T, 1>(p, tile, o, x, nullptr, results);
    store_results(p, tile, 0, x.rows, results);
  }
}

/// What a strip's weights are multiplied with, and where its sums wait for the next strip.
struct StripRows {
  const float* values;  // [rows, columns] from the strip's first column on
  int64_t stride;
  int64_t columns;   // of the strip
  bool first, last;  // of the strips
  float* sums;       // [output_tile, strip_rows, lanes]
  Results& results;
};

/// Outputs [o, o + O) times rows [r, r + R) of one strip: sums come from the strip before and go to the next,
/// or out.
template <int O, int R>
void tile_float_strip(const float* widened, int64_t o, int64_t r, const StripRows& x) {
  float* const sums = x.sums + (o * strip_rows + r) * lanes;
  Vf acc[O][R];
#pragma GCC unroll 4
  for (int i = 0; i < O; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < R; ++j) acc[i][j] = x.first ? splat(0) : load(sums + (i * strip_rows + j) * lanes);
  }
  const Strip<float> strip{widened + o * strip_columns, strip_columns, nullptr};
  add_columns<float, O, R>(strip, x.values + r * x.stride, x.stride, x.columns, acc);
#pragma GCC unroll 4
  for (int i = 0; i < O; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < R; ++j) {
      if (x.last)
        x.results.values[r + j][o + i] = sum_lanes(acc[i][j]);
      else
        store(sums + (i * strip_rows + j) * lanes, acc[i][j]);
    }
  }
}

/// R rows, or `rows` fewer, times all outputs of the strip, which the first cache holds beside those rows.
template <int R>
void rows_of_strip(const float* widened, int64_t outputs, int64_t r, int64_t rows, const StripRows& x) {
  if constexpr (R > 1)
    if (rows < R) return rows_of_strip<R - 1>(widened, outputs, r, rows, x);
  int64_t o = 0;
  for (; o + float_outputs <= outputs; o += float_outputs)
    tile_float_strip<float_outputs, R>(widened, o, r, x);
  for (; o < outputs; ++o) tile_float_strip<1, R>(widened, o, r, x);
}

/// Widens a strip's columns of one output: what a whole row has `all` of.
template <class T>
void widen_columns(const Product& p, int64_t output, int64_t column, int64_t columns, int64_t all,
                   float* to) {
  const T* from = reinterpret_cast<const T*>(p.weights + output * p.row_bytes) + column;
  for (int64_t c = 0; c < columns; c += lanes) {
    Vf weight = columns - c < lanes ? load_part(from + c, columns - c) : load(from + c);
    if constexpr (scaled<T>)
      weight = mul(weight, splat(scale_of<T>(p, output, (column + c) / scale_block * scale_block, all)));
    store(to + c, weight);
  }
}

/// Many rows: 16 outputs are widened strip by strip, and each strip serves all rows.
template <class T>
void linear_float_in_strips(const Product& p, int64_t first, int64_t last, const Activations& x,
                            std::byte* scratch) {
  float* widened = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(scratch) + 63) / 64 * 64);
  float* sums = widened + output_tile * strip_columns;  // [outputs, strip_rows, lanes]
  Results results;
  for (int64_t tile = first; tile < last; tile += output_tile) {
    const int64_t outputs = last - tile < output_tile ? last - tile : output_tile;
    for (int64_t row = 0; row < x.rows; row += strip_rows) {
      const int64_t rows = x.rows - row < strip_rows ? x.rows - row : strip_rows;
      for (int64_t column = 0; column < x.columns; column += strip_columns) {
        const int64_t left = x.columns - column, columns = left < strip_columns ? left : strip_columns;
        for (int64_t o = 0; o < outputs; ++o)
          widen_columns<T>(p, tile + o, column, columns, x.columns, widened + o * strip_columns);
        const StripRows strip{x.values + row * x.columns + column,
                              x.columns,
                              columns,
                              column == 0,
                              columns == left,
                              sums,
                              results};
        for_row_tiles(rows, [&](int64_t r, int64_t count) {
          rows_of_strip<float_rows>(widened, outputs, r, count, strip);
        });
      }
      store_results(p, tile, row, rows, results);
    }
  }
}

template <class T>
void linear_float(const Product& p, int64_t first, int64_t last, const Activations& x, std::byte* scratch) {
  if (x.rows <= rows_as_stored_max) return linear_float_as_stored<T>(p, first, last, x);
  linear_float_in_strips<T>(p, first, last, x, scratch);
}
