// Products with float weights, widened to float32 on the way: lane = column mod 16. Part of kernels.inl.

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

/// Some columns of O outputs' weights, [O, stride], and lines to fetch while they are read.
template <class T>
struct FloatWeights {
  const T* w;
  int64_t stride;
  // Of the lines to fetch, as many bytes as w has, those of so many outputs; nullptr: none.
  const std::byte* ahead;
  int64_t fetch_first, fetch_last;
  const float* scale = nullptr;  // [O], if T has any
};

/// Adds 16 columns, or the `rest` < 16 that are left, of O outputs times R rows of v to their sums.
template <bool whole, class T, int O, int R>
[[gnu::always_inline]] inline void add_lanes(const FloatWeights<T>& weights, const float* v, int64_t stride,
                                             int64_t c, int64_t rest, Vf (&acc)[O][R]) {
  Vf values[R];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    const float* from = v + r * stride + c;
    values[r] = whole ? load(from) : load_part(from, rest);
  }
#pragma GCC unroll 4
  for (int o = 0; o < O; ++o) {
    const T* from = weights.w + o * weights.stride + c;
    Vf weight = whole ? load(from) : load_part(from, rest);
    if constexpr (scaled<T>) weight = mul(weight, splat(weights.scale[o]));
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) acc[o][r] = fma(weight, values[r], acc[o][r]);
  }
}
/// Adds `columns` columns of O outputs times R rows of v, each `stride` apart, to their sums.
template <class T, int O, int R>
[[gnu::always_inline]] inline void add_columns(const FloatWeights<T>& weights, const float* v, int64_t stride,
                                               int64_t columns, Vf (&acc)[O][R]) {
  constexpr int64_t line = 64 / static_cast<int64_t>(sizeof(T));  // columns of weights in a cache line
  int64_t c = 0;
  const std::byte* const ahead = weights.ahead;
  if (ahead) {
    const int64_t row_bytes = weights.stride * static_cast<int64_t>(sizeof(T));
    const std::byte* const first = ahead + weights.fetch_first * row_bytes;
    const int64_t end = (weights.fetch_last - weights.fetch_first) * row_bytes;
    for (; c + line <= columns; c += line) {
      for (int64_t at = 0; at < end; at += row_bytes)
        fetch_line(first + at + c * static_cast<int64_t>(sizeof(T)));
#pragma GCC unroll 4
      for (int64_t i = 0; i < line; i += lanes) add_lanes<true>(weights, v, stride, c + i, lanes, acc);
    }
  }
  for (; c + lanes <= columns; c += lanes) add_lanes<true>(weights, v, stride, c, lanes, acc);
  if (c < columns) add_lanes<false>(weights, v, stride, c, columns - c, acc);
}

/// Up to so many rows wait for the memory's weights rather than for products.
constexpr int64_t rows_as_stored_max = 4;

/// Products of rows with 16 outputs, one row after the other, until store_outputs takes them.
struct Results {
  static constexpr int64_t rows = 64;
  alignas(64) float values[rows][output_tile] = {};
};

/// What is fetched beside a product: of the weights at `at`, those of outputs [first, last).
struct FetchedOutputs {
  const std::byte* at = nullptr;
  int64_t first = 0, last = 0;
};

/// Weights w of outputs [output, output + O) times R rows: sums [o, o + O) of each.
template <class T, int O, int R>
void tile_float(const Product& p, int64_t output, const T* w, FetchedOutputs ahead, const Activations& x,
                int64_t row, int64_t o, Results& results) {
  const float* v = x.values + row * x.columns;
  Vf acc[O][R];
#pragma GCC unroll 4
  for (int i = 0; i < O; ++i) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) acc[i][r] = splat(0);
  }
  if constexpr (scaled<T>) {
    for (int64_t c = 0; c < x.columns; c += scale_block) {
      float scale[O];
      for (int i = 0; i < O; ++i) scale[i] = scale_of<T>(p, output + i, c, x.columns);
      const int64_t left = x.columns - c;
      add_columns<T, O, R>(
          {w + c, x.columns, ahead.at ? ahead.at + c : nullptr, ahead.first, ahead.last, scale}, v + c,
          x.columns, left < scale_block ? left : scale_block, acc);
    }
  } else {
    add_columns<T, O, R>({w, x.columns, ahead.at, ahead.first, ahead.last}, v, x.columns, x.columns, acc);
  }
#pragma GCC unroll 4
  for (int i = 0; i < O; ++i) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) results.values[row + r][o + i] = sum_lanes(acc[i][r]);
  }
}

/// The same for R rows or fewer.
template <class T, int O, int R>
void up_to_rows_float(const Product& p, int64_t output, const T* w, FetchedOutputs ahead,
                      const Activations& x, int64_t row, int64_t rows, int64_t o, Results& results) {
  if constexpr (R > 1)
    if (rows < R) return up_to_rows_float<T, O, R - 1>(p, output, w, ahead, x, row, rows, o, results);
  tile_float<T, O, R>(p, output, w, ahead, x, row, o, results);
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

/// The same for all rows: the weights are in the first cache or the second from the second tile of rows on.
/// What lies ahead is fetched evenly, beside as many tiles of rows as there are: at once lines wait for each
/// other.
template <class T, int O>
void all_rows_float(const Product& p, int64_t output, const T* w, const std::byte* ahead,
                    const Activations& x, int64_t o, Results& results) {
  const int64_t all = (x.rows + float_rows - 1) / float_rows, tiles = all < O ? all : O;
  int64_t tile = 0;
  for_row_tiles(x.rows, [&](int64_t row, int64_t rows) {
    const FetchedOutputs part{tile < tiles ? ahead : nullptr, O * tile / tiles, O * (tile + 1) / tiles};
    up_to_rows_float<T, O, float_rows>(p, output, w, part, x, row, rows, o, results);
    ++tile;
  });
}

/// Widens a row of weights, and fetches what lies `ahead` of it.
template <class T>
void widen_row(const Product& p, int64_t output, const T* w, const std::byte* ahead, int64_t columns,
               float* to) {
  for (int64_t c = 0; c < columns; c += lanes) {
    constexpr int64_t line = 64 / static_cast<int64_t>(sizeof(T));
    if (ahead && c % line == 0) fetch_line(ahead + c * static_cast<int64_t>(sizeof(T)));
    const int64_t left = columns - c;
    const Vf scale = splat(scale_of<T>(p, output, c / scale_block * scale_block, columns));
    if (left < lanes)
      store_part(to + c, mul(load_part(w + c, left), scale), left);
    else
      store(to + c, mul(load(w + c), scale));
  }
}

/// From so many rows on 16-bit weights are widened once, if the first cache holds them then, beside rows.
constexpr int64_t widened_rows_min = 48, widened_bytes_max = 32 << 10;

/// Whether O outputs' weights are widened before they are multiplied. Of 8 bits that costs as much as some
/// products: it is done for more than one tile of rows.
template <class T, int O>
bool widens(const Activations& x) {
  if (sizeof(T) == sizeof(float)) return false;
  if (scaled<T>) return x.rows > float_rows;
  return x.rows >= widened_rows_min && !widens_beside_products() &&
         O * x.columns * static_cast<int64_t>(sizeof(float)) <= widened_bytes_max;
}

/// Outputs [output, output + O).
template <class T, int O>
void outputs_float(const Product& p, int64_t output, const std::byte* ahead, const Activations& x, int64_t o,
                   float* widened, Results& results) {
  const T* w = reinterpret_cast<const T*>(p.weights + output * p.row_bytes);
  if constexpr (sizeof(T) < sizeof(float)) {
    if (widens<T, O>(x)) {
      for (int i = 0; i < O; ++i)
        widen_row(p, output + i, w + i * x.columns, ahead ? ahead + i * p.row_bytes : nullptr, x.columns,
                  widened + i * x.columns);
      return all_rows_float<float, O>(p, output, widened, nullptr, x, o, results);
    }
  }
  all_rows_float<T, O>(p, output, w, ahead, x, o, results);
}

/// Rows that pass over 16 outputs' weights before the next rows do: few enough to stay in the second cache.
int64_t rows_together(int64_t columns) {
  constexpr int64_t bytes_max = 512 << 10, rows_min = 16;
  const int64_t rows = bytes_max / (columns * static_cast<int64_t>(sizeof(float)));
  return rows < rows_min ? rows_min : rows > Results::rows ? Results::rows : rows;
}

/// O outputs at a time.
template <class T, int O>
void linear_float_by(const Product& p, int64_t first, int64_t last, const Activations& x,
                     std::byte* scratch) {
  float* widened = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(scratch) + 63) / 64 * 64);
  const std::byte* end = p.weights + last * p.row_bytes;
  const int64_t rows_max = rows_together(x.columns);
  Results results;
  for (int64_t tile = first; tile < last; tile += output_tile) {
    const int64_t count = last - tile < output_tile ? last - tile : output_tile;
    for (int64_t row = 0; row < x.rows; row += rows_max) {
      const int64_t left = x.rows - row, rows = left < rows_max ? left : rows_max;
      const Activations part{.values = x.values + row * x.columns, .rows = rows, .columns = x.columns};
      int64_t o = 0;
      for (; o + O <= count; o += O) {
        const std::byte* ahead = p.weights + (tile + o + O) * p.row_bytes;
        if (ahead >= end) ahead = p.next;
        outputs_float<T, O>(p, tile + o, row == 0 ? ahead : nullptr, part, o, widened, results);
      }
      for (; o < count; ++o) outputs_float<T, 1>(p, tile + o, nullptr, part, o, widened, results);
      for (int64_t r = 0; r < rows; ++r) store_outputs(p, row + r, tile, results.values[r]);
    }
  }
}

template <class T>
void linear_float(const Product& p, int64_t first, int64_t last, const Activations& x, std::byte* scratch) {
  // Of few rows, memory's latency counts, and of many how often what is in registers is used.
  constexpr int few = 4;
  if (x.rows <= rows_as_stored_max) return linear_float_by<T, few>(p, first, last, x, scratch);
  linear_float_by<T, float_outputs>(p, first, last, x, scratch);
}
