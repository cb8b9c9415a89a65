// Latent attention of few rows: their queries go into the latents' space, where what is cached of a token is
// key and value at once for all heads. Part of kernels.inl.

/// A block of q8_0 in a tile, of which 16 columns at a time become float32.
struct Block80 {};

/// Columns [c, c + n) of row i, n up to 16.
template <class T>
[[gnu::always_inline]] inline Vf weights_at(const TransposedProduct& p, int64_t i, int64_t c, int64_t n) {
  if constexpr (std::is_same_v<T, Block80>) {
    const int64_t output = i % lanes;
    const std::byte* block = p.weights + (i / lanes * p.row_bytes + c / block_values * Q80::bytes) * lanes;
    const std::byte* from = block + (2 + c % block_values) * lanes + output * 4;
    uint16_t d;
    __builtin_memcpy(&d, block + output * 2, sizeof d);
    int32_t dwords[4];
#pragma GCC unroll 4
    for (int t = 0; t < 4; ++t) __builtin_memcpy(dwords + t, from + t * 4 * lanes, sizeof *dwords);
    return mul(load(reinterpret_cast<const Int8*>(dwords)), half_low(splat_int(d)));
  } else {
    const T* from = reinterpret_cast<const T*>(p.weights + i * p.row_bytes) + c;
    const Vf weight = n < lanes ? load_part(from, n) : load(from);
    if constexpr (!scaled<T>) return weight;
    return mul(weight, splat(scale_of<T>(p, i, c / scale_block * scale_block, p.columns)));
  }
}

/// Columns [c, c + 16·D), or with D = 1 the n that are left, of R rows. The matrix' rows are fetched whole by
/// whoever comes first.
template <class T, int R, int D>
void tile_transposed(const TransposedProduct& p, int64_t row, int64_t c, int64_t n) {
  const bool fetch = row == 0 && c == 0;
  Vf acc[R][D];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int d = 0; d < D; ++d) acc[r][d] = splat(0);
  }
  for (int64_t i = 0; i < p.inputs; ++i) {
    if (fetch && i + rows_ahead < p.inputs)
      for (int64_t at = 0; at < p.row_bytes; at += 64)
        fetch_line(p.weights + (i + rows_ahead) * p.row_bytes + at);
    Vf weight[D];
#pragma GCC unroll 4
    for (int d = 0; d < D; ++d) weight[d] = weights_at<T>(p, i, c + d * lanes, D > 1 ? lanes : n);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const Vf x = splat(p.x[(row + r) * p.inputs + i]);
#pragma GCC unroll 4
      for (int d = 0; d < D; ++d) acc[r][d] = fma(x, weight[d], acc[r][d]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int d = 0; d < D; ++d) {
      float* out = p.out + (row + r) * p.out_stride + c + d * lanes;
      D == 1 && n < lanes ? store_part(out, acc[r][d], n) : store(out, acc[r][d]);
    }
  }
}

/// R rows or fewer.
template <class T, int R>
void rows_transposed(const TransposedProduct& p, int64_t row, int64_t rows) {
  if constexpr (R > 1)
    if (rows < R) return rows_transposed<T, R - 1>(p, row, rows);
  constexpr int64_t wide = value_strips * lanes;
  int64_t c = 0;
  for (; c + wide <= p.columns; c += wide) tile_transposed<T, R, value_strips>(p, row, c, lanes);
  for (; c < p.columns; c += lanes)
    tile_transposed<T, R, 1>(p, row, c, p.columns - c < lanes ? p.columns - c : lanes);
}

template <class T>
void linear_transposed_of(const TransposedProduct& p) {
  for_row_tiles(p.rows, [&](int64_t row, int64_t rows) { rows_transposed<T, float_rows>(p, row, rows); });
}

void linear_transposed(const TransposedProduct& p) {
  switch (p.type) {
    case model::DType::f32:
      return linear_transposed_of<float>(p);
    case model::DType::f16:
      return linear_transposed_of<Half>(p);
    case model::DType::bf16:
      return linear_transposed_of<Bfloat>(p);
    case model::DType::f8_e4m3:
      return linear_transposed_of<Float8>(p);
    case model::DType::i8:
      return linear_transposed_of<Int8>(p);
    case model::DType::q8_0:
      return linear_transposed_of<Block80>(p);
    default:
      __builtin_abort();  // widened by the caller
  }
}

/// Cached entries that lie one after the other, and what is read after them.
template <class T>
struct Entries {
  const T* first;
  int64_t count;
  const T* next;  // nullptr: nothing
};

template <class T>
Entries<T> entries_in(const LatentTask& a, int64_t block) {
  const auto at = [&](int64_t b) {
    return static_cast<const T*>(a.entries) + KvPlace::first_in(a.blocks, b).by_token(a.width);
  };
  const int64_t left = a.keys - block * kv_block_tokens;
  if (left <= kv_block_tokens) return {at(block), left, nullptr};
  return {at(block), kv_block_tokens, at(block + 1)};
}

/// Scores of Q queries against K entries; lane = column mod 16.
template <class T, int Q, int K>
void score_entries(const LatentTask& a, int64_t query, const T* entries, float* scores, int64_t stride) {
  const float* q = a.q + query * a.q_stride;
  Vf acc[Q][K];
#pragma GCC unroll 4
  for (int i = 0; i < Q; ++i) {
#pragma GCC unroll 4
    for (int k = 0; k < K; ++k) acc[i][k] = splat(0);
  }
  const auto add = [&](int64_t c, int64_t n) __attribute__((always_inline)) {
    Vf entry[K];
#pragma GCC unroll 4
    for (int k = 0; k < K; ++k) {
      entry[k] = cached(entries + k * a.width + c, n);
    }
#pragma GCC unroll 4
    for (int i = 0; i < Q; ++i) {
      const float* from = q + i * a.q_stride + c;
      const Vf value = n < lanes ? load_part(from, n) : load(from);
#pragma GCC unroll 4
      for (int k = 0; k < K; ++k) acc[i][k] = fma(value, entry[k], acc[i][k]);
    }
  };
  int64_t c = 0;
  for (; c + lanes <= a.width; c += lanes) add(c, lanes);
  if (c < a.width) add(c, a.width - c);
#pragma GCC unroll 4
  for (int i = 0; i < Q; ++i) {
#pragma GCC unroll 4
    for (int k = 0; k < K; ++k) scores[i * stride + k] = sum_lanes(acc[i][k]) * a.scale;
  }
}

/// All queries against K entries.
template <class T, int K>
void score_all(const LatentTask& a, const T* entries, float* scores, int64_t stride) {
  int64_t query = 0;
  for (; query + float_outputs <= a.queries; query += float_outputs)
    score_entries<T, float_outputs, K>(a, query, entries, scores + query * stride, stride);
  for (; query < a.queries; ++query)
    score_entries<T, 1, K>(a, query, entries, scores + query * stride, stride);
}

template <class T>
void score_block_of_entries(const LatentTask& a, const Entries<T>& entries, float* scores, int64_t stride) {
  constexpr int64_t together = float_rows;
  const int64_t bytes = together * a.width * static_cast<int64_t>(sizeof(T));
  int64_t k = 0;
  for (; k + together <= entries.count; k += together) {
    const T* next =
        k + 2 * together <= entries.count ? entries.first + (k + together) * a.width : entries.next;
    for (int64_t at = 0; next && at < bytes; at += 64)
      fetch_line(reinterpret_cast<const std::byte*>(next) + at);
    score_all<T, together>(a, entries.first + k * a.width, scores + k, stride);
  }
  for (; k < entries.count; ++k) score_all<T, 1>(a, entries.first + k * a.width, scores + k, stride);
}

/// Adds weights times values [c, c + 16·D), or with D = 1 the n that are left, of a block's entries to the
/// outputs of Q queries.
template <class T, int Q, int D>
void add_entries(const LatentTask& a, int64_t query, const Entries<T>& entries, const float* weights,
                 int64_t stride, int64_t c, int64_t n) {
  float* out = a.out + query * a.out_stride + c;
  const bool part = D == 1 && n < lanes;
  Vf acc[Q][D];
#pragma GCC unroll 4
  for (int i = 0; i < Q; ++i) {
#pragma GCC unroll 4
    for (int d = 0; d < D; ++d) {
      const float* from = out + i * a.out_stride + d * lanes;
      acc[i][d] = part ? load_part(from, n) : load(from);
    }
  }
  for (int64_t k = 0; k < entries.count; ++k) {
    Vf value[D];
#pragma GCC unroll 4
    for (int d = 0; d < D; ++d) {
      const T* from = entries.first + k * a.width + c + d * lanes;
      value[d] = part ? cached(from, n) : cached(from);
    }
#pragma GCC unroll 4
    for (int i = 0; i < Q; ++i) {
      const Vf weight = splat(weights[i * stride + k]);
#pragma GCC unroll 4
      for (int d = 0; d < D; ++d) acc[i][d] = fma(weight, value[d], acc[i][d]);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < Q; ++i) {
#pragma GCC unroll 4
    for (int d = 0; d < D; ++d) {
      float* to = out + i * a.out_stride + d * lanes;
      part ? store_part(to, acc[i][d], n) : store(to, acc[i][d]);
    }
  }
}

template <class T, int Q>
void add_all_values(const LatentTask& a, int64_t query, const Entries<T>& entries, const float* weights,
                    int64_t stride) {
  constexpr int64_t wide = value_strips * lanes;
  int64_t c = 0;
  for (; c + wide <= a.values; c += wide)
    add_entries<T, Q, value_strips>(a, query, entries, weights, stride, c, lanes);
  for (; c < a.values; c += lanes)
    add_entries<T, Q, 1>(a, query, entries, weights, stride, c, a.values - c < lanes ? a.values - c : lanes);
}

template <class T>
void latent_attention_over(const LatentTask& a) {
  const int64_t blocks = kv_blocks_for(a.keys), stride = LatentTask::score_stride(a.keys);
  for (int64_t b = 0; b < blocks; ++b)
    score_block_of_entries(a, entries_in<T>(a, b), a.scores + b * kv_block_tokens, stride);
  for (int64_t query = 0; query < a.queries; ++query) {
    float* weights = a.scores + query * stride;
    const Vf inverse = splat(softmax(weights, a.keys));
    for (int64_t k = 0; k < stride; k += lanes) store(weights + k, mul(load(weights + k), inverse));
    float* out = a.out + query * a.out_stride;
    for (int64_t c = 0; c < a.values; ++c) out[c] = 0;
  }
  for (int64_t b = 0; b < blocks; ++b) {
    const Entries<T> entries = entries_in<T>(a, b);
    const float* weights = a.scores + b * kv_block_tokens;
    int64_t query = 0;
    for (; query + float_outputs <= a.queries; query += float_outputs)
      add_all_values<T, float_outputs>(a, query, entries, weights + query * stride, stride);
    for (; query < a.queries; ++query)
      add_all_values<T, 1>(a, query, entries, weights + query * stride, stride);
  }
}

void latent_attention(const LatentTask& a) {
  switch (a.type) {
    case model::DType::f32:
      return latent_attention_over<float>(a);
    case model::DType::bf16:
      return latent_attention_over<Bfloat>(a);
    case model::DType::f16:
      return latent_attention_over<Half>(a);
    case model::DType::f8_e4m3:
      return latent_attention_over<Float8>(a);
    default:
      __builtin_abort();  // Engine let no other type in
  }
}
