// Products with float weights, widened to float32 on the way: lane = column mod 16. Part of kernels.inl.

/// Columns of weights that are widened at once: 16 outputs of them are 16 KB, half of a first cache, where
/// rows of activations that lie a multiple of 4 KB apart take the same few places.
constexpr int64_t strip_columns = float_strip_columns;
/// Rows that share a widened strip; their sums wait in scratch between strips.
constexpr int64_t strip_rows = float_strip_rows;

/// The weights of O outputs, [O, stride] from the first column on, and lines to fetch while they are read.
template <class T>
struct Strip {
  const T* w;
  int64_t stride;
  const std::byte* ahead;  // as many bytes as w has, or nullptr
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
    const Vf weight = whole ? load(from) : load_part(from, rest);
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
  add_columns<T, O, R>({w, x.columns, ahead}, x.values + row * x.columns, x.columns, x.columns, acc);
#pragma GCC unroll 4
  for (int i = 0; i < O; ++i) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) results.values[row + r][o + i] = sum_lanes(acc[i][r]);
  }
}

template <class T, int O>
void tile_float_as_stored(const Product& p, int64_t first, int64_t o, const Activations& x,
                          const std::byte* ahead, Results& results) {
  int64_t row = 0;
  for (; row + float_rows <= x.rows; row += float_rows, ahead = nullptr)
    tile_float_as_stored<T, O, float_rows>(p, first, o, x, row, ahead, results);
  for (; row < x.rows; ++row, ahead = nullptr)
    tile_float_as_stored<T, O, 1>(p, first, o, x, row, ahead, results);
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

/// R rows times all outputs of the strip, which the first cache holds beside those rows.
template <int R>
void rows_of_strip(const float* widened, int64_t outputs, int64_t r, const StripRows& x) {
  int64_t o = 0;
  for (; o + float_outputs <= outputs; o += float_outputs)
    tile_float_strip<float_outputs, R>(widened, o, r, x);
  for (; o < outputs; ++o) tile_float_strip<1, R>(widened, o, r, x);
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
        for (int64_t o = 0; o < outputs; ++o) {
          const T* from = reinterpret_cast<const T*>(p.weights + (tile + o) * p.row_bytes) + column;
          for (int64_t c = 0; c < columns; c += lanes)
            store(widened + o * strip_columns + c,
                  columns - c < lanes ? load_part(from + c, columns - c) : load(from + c));
        }
        const StripRows strip{x.values + row * x.columns + column,
                              x.columns,
                              columns,
                              column == 0,
                              columns == left,
                              sums,
                              results};
        int64_t r = 0;
        for (; r + float_rows <= rows; r += float_rows) rows_of_strip<float_rows>(widened, outputs, r, strip);
        for (; r < rows; ++r) rows_of_strip<1>(widened, outputs, r, strip);
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
