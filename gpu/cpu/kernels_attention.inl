// Causal attention over the paged cache. Part of kernels.inl.
//
// T is what the cache holds: float, or Half or Bfloat, which become float32 as they are loaded. Few queries
// wait for the cache's memory, so what a tile of queries reads first is fetched `rows_ahead` before.

constexpr int64_t rows_ahead = 8;

int64_t keys_of(const AttentionTask& a, int64_t query) { return a.first_position + query / a.group + 1; }
const float* query_of(const AttentionTask& a, int64_t query) {
  return a.q + query / a.group * a.row_stride + query % a.group * a.head_dim;
}
float* out_of(const AttentionTask& a, int64_t query) {
  return a.out + query / a.group * a.row_stride + query % a.group * a.head_dim;
}

/// Rows of a block, `stride` values apart, and those that are read after them; nullptr: there are none, or
/// nothing of them is to be fetched.
template <class T>
struct CacheRows {
  const T *rows, *next;
  int64_t count, stride;
  bool fetch;  // not if other queries have just read them

  /// Fetches so many values of the row that comes `rows_ahead` after row i, and of the `parts - 1` that lie
  /// each `apart` values behind it.
  template <int64_t values, int parts = 1>
  [[gnu::always_inline]] void fetch_after(int64_t i, int64_t apart = 0) const {
    if (!fetch) return;
    const int64_t at = i + rows_ahead;
    const T* row = at < count ? rows + at * stride : next ? next + (at - count) * stride : nullptr;
    if (!row) return;
#pragma GCC unroll 4
    for (int part = 0; part < parts; ++part)
      prefetch<values* static_cast<int64_t>(sizeof(T))>(
          reinterpret_cast<const std::byte*>(row + part * apart));
  }
};

/// The strips of 16 keys of one block.
static_assert(lanes == kv_strip_tokens);
template <class T>
const T* strips_of(const AttentionTask& a, int64_t block) {
  return static_cast<const T*>(a.keys) + KvPlace::first_in(a.blocks, block).by_value(a.width);
}

template <class T>
CacheRows<T> values_in(const AttentionTask& a, int64_t block, int64_t blocks, bool fetch) {
  const auto at = [&](int64_t b) {
    return static_cast<const T*>(a.values) + KvPlace::first_in(a.blocks, b).by_token(a.width);
  };
  return {at(block), block + 1 < blocks ? at(block + 1) : nullptr, kv_block_tokens, a.width, fetch};
}

/// Scores of Q queries against S strips of keys, `apart` values from each other; lane = key.
template <class T, int Q, int S>
void score_strips(const AttentionTask& a, int64_t query, const CacheRows<T>& keys, int64_t apart,
                  float* scores, int64_t stride) {
  const float* q[Q];
  Vf acc[Q][S];
#pragma GCC unroll 6
  for (int i = 0; i < Q; ++i) {
    q[i] = query_of(a, query + i);
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s) acc[i][s] = splat(0);
  }
  const CacheRows<T> own = keys;
  for (int64_t d = 0; d < a.head_dim; ++d) {
    own.template fetch_after<lanes, S>(d, apart);
    Vf key[S];
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s) key[s] = load(own.rows + s * apart + d * lanes);
#pragma GCC unroll 6
    for (int i = 0; i < Q; ++i) {
      const Vf value = splat(q[i][d]);
#pragma GCC unroll 4
      for (int s = 0; s < S; ++s) acc[i][s] = fma(value, key[s], acc[i][s]);
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < Q; ++i) {
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s) store(scores + i * stride + s * lanes, mul(acc[i][s], splat(a.scale)));
  }
}

/// Scores of Q queries against the keys of one block that the last of them sees, 16 by 16. Lanes past a
/// query's own position hold what lies there, and softmax leaves them out.
template <class T, int Q>
void score_block(const AttentionTask& a, int64_t query, int64_t block, int64_t blocks, int64_t stride) {
  const T* const strips = strips_of<T>(a, block);
  const T* const next_block = block + 1 < blocks ? strips_of<T>(a, block + 1) : nullptr;
  float* scores = a.scores + query * stride + block * kv_block_tokens;
  const int64_t seen = keys_of(a, query + Q - 1) - block * kv_block_tokens;
  const int64_t end = seen < kv_block_tokens ? seen : kv_block_tokens, apart = lanes * a.width;
  constexpr int64_t wide = strips_together * lanes;
  int64_t k = 0;
  const auto keys = [&](int64_t then) __attribute__((always_inline)) {
    return CacheRows<T>{strips + k * a.width, then < end ? strips + then * a.width : next_block, a.head_dim,
                        lanes, query == 0};
  };
  for (; k + wide <= end; k += wide)
    score_strips<T, Q, strips_together>(a, query, keys(k + wide), apart, scores + k, stride);
  for (; k < end; k += lanes) score_strips<T, Q, 1>(a, query, keys(k + lanes), apart, scores + k, stride);
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
template <class T, int Q, int D>
void add_values(const AttentionTask& a, int64_t query, int64_t dim, const CacheRows<T>& values,
                const float* weights, int64_t first, int64_t last, int64_t stride) {
  const float* p[Q];
  Vf acc[Q][D];
#pragma GCC unroll 6
  for (int i = 0; i < Q; ++i) {
    p[i] = weights + i * stride;
#pragma GCC unroll 4
    for (int d = 0; d < D; ++d) acc[i][d] = load(out_of(a, query + i) + dim + d * lanes);
  }
  const CacheRows<T> own{values.rows + dim, values.next ? values.next + dim : nullptr, last, values.stride,
                         values.fetch};
  for (int64_t k = first; k < last; ++k) {
    own.template fetch_after<D * lanes>(k);
    Vf value[D];
#pragma GCC unroll 4
    for (int d = 0; d < D; ++d) value[d] = load(own.rows + k * own.stride + d * lanes);
#pragma GCC unroll 6
    for (int i = 0; i < Q; ++i) {
      const Vf weight = splat(p[i][k]);
#pragma GCC unroll 4
      for (int d = 0; d < D; ++d) acc[i][d] = fma(weight, value[d], acc[i][d]);
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < Q; ++i) {
#pragma GCC unroll 4
    for (int d = 0; d < D; ++d) store(out_of(a, query + i) + dim + d * lanes, acc[i][d]);
  }
}

template <class T, int Q>
void add_values(const AttentionTask& a, int64_t query, const CacheRows<T>& values, const float* weights,
                int64_t first, int64_t last, int64_t stride) {
  constexpr int64_t wide = value_strips * lanes;
  int64_t dim = 0;
  for (; dim + wide <= a.head_dim; dim += wide)
    add_values<T, Q, value_strips>(a, query, dim, values, weights, first, last, stride);
  for (; dim < a.head_dim; dim += lanes)
    add_values<T, Q, 1>(a, query, dim, values, weights, first, last, stride);
}

/// Values of one block for Q queries: those that all of them see, then each one's others.
template <class T, int Q>
void add_block_values(const AttentionTask& a, int64_t query, int64_t block, int64_t blocks, int64_t stride) {
  const CacheRows<T> values = values_in<T>(a, block, blocks, query == 0);
  const auto last = [&](int64_t of) {
    const int64_t n = keys_of(a, of) - block * kv_block_tokens;
    return n < 0 ? 0 : n < kv_block_tokens ? n : kv_block_tokens;
  };
  const float* weights = a.scores + query * stride + block * kv_block_tokens;
  const int64_t shared = last(query);
  add_values<T, Q>(a, query, values, weights, 0, shared, stride);
  for (int64_t i = 1; i < Q; ++i)
    if (shared < last(query + i))
      add_values<T, 1>(a, query + i, values, weights + i * stride, shared, last(query + i), stride);
}

/// `queries` queries of one block, Q or fewer at once.
template <class T, int Q>
void score_queries(const AttentionTask& a, int64_t query, int64_t queries, int64_t block, int64_t blocks,
                   int64_t stride) {
  if constexpr (Q > 1)
    if (queries < Q) return score_queries<T, Q - 1>(a, query, queries, block, blocks, stride);
  score_block<T, Q>(a, query, block, blocks, stride);
}
template <class T, int Q>
void add_queries_values(const AttentionTask& a, int64_t query, int64_t queries, int64_t block, int64_t blocks,
                        int64_t stride) {
  if constexpr (Q > 1)
    if (queries < Q) return add_queries_values<T, Q - 1>(a, query, queries, block, blocks, stride);
  add_block_values<T, Q>(a, query, block, blocks, stride);
}

template <class T>
void attention_over(const AttentionTask& a) {
  const int64_t blocks = kv_blocks_for(keys_of(a, a.queries - 1)), stride = blocks * kv_block_tokens;
  for (int64_t b = 0; b < blocks; ++b)
    for (int64_t query = 0; query < a.queries; query += query_tile)
      score_queries<T, query_tile>(a, query, a.queries - query, b, blocks, stride);
  for (int64_t query = 0; query < a.queries; ++query) {
    a.inverse[query] = softmax(a.scores + query * stride, keys_of(a, query));
    float* out = out_of(a, query);
    for (int64_t d = 0; d < a.head_dim; d += lanes) store(out + d, splat(0));
  }
  for (int64_t b = 0; b < blocks; ++b)
    for (int64_t query = 0; query < a.queries; query += query_tile)
      add_queries_values<T, query_tile>(a, query, a.queries - query, b, blocks, stride);
  for (int64_t query = 0; query < a.queries; ++query) {
    float* out = out_of(a, query);
    const Vf scale = splat(a.inverse[query]);
    for (int64_t d = 0; d < a.head_dim; d += lanes) store(out + d, mul(load(out + d), scale));
  }
}

void attention(const AttentionTask& a) {
  switch (a.type) {
    case model::DType::f32:
      return attention_over<float>(a);
    case model::DType::bf16:
      return attention_over<Bfloat>(a);
    case model::DType::f16:
      return attention_over<Half>(a);
    default:
      __builtin_abort();  // Engine let no other type in
  }
}
