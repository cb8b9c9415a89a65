// Causal attention over the paged cache. Part of kernels.inl.
//
// T is what the cache holds: float, or Half, Bfloat or Float8, which become float32 as they are loaded. The
// cache is mostly in memory, and its blocks lie anywhere: while one piece of it is computed with, the next one
// is fetched, a few lines with each key.

/// How many inputs ahead the rows of a matrix are fetched that linear_transposed goes through.
constexpr int64_t rows_ahead = 8;

int64_t keys_of(const AttentionTask& a, int64_t query) { return a.first_position + query / a.group + 1; }
const float* query_of(const AttentionTask& a, int64_t query) {
  return a.q + query / a.group * a.row_stride + query % a.group * a.head_dim;
}
float* out_of(const AttentionTask& a, int64_t query) {
  return a.out + query / a.group * a.row_stride + query % a.group * a.head_dim;
}

/// Memory that is read next.
struct Ahead {
  const std::byte *at = nullptr, *end = nullptr;

  template <int lines>
  [[gnu::always_inline]] void fetch() {
    if (at >= end) return;
#pragma GCC unroll 4
    for (int i = 0; i < lines; ++i) fetch_line(at + i * 64);
    at += lines * 64;
  }
};
/// Lines to fetch with each dimension of keys, and with each key of 64 dimensions of values: then a block is
/// fetched in the time that one is computed with.
template <class T>
constexpr int lines_each = sizeof(T);

/// What the cache holds, as float32. What load() leaves for a weight's scale is brought here: there is none.
template <class T>
[[gnu::always_inline]] inline Vf cached(const T* from) {
  if constexpr (unit<T> == 1) return load(from);
  return mul(load(from), splat(unit<T>));
}
/// n values, up to 16.
template <class T>
[[gnu::always_inline]] inline Vf cached(const T* from, int64_t n) {
  if (n >= lanes) return cached(from);
  if constexpr (unit<T> == 1) return load_part(from, n);
  return mul(load_part(from, n), splat(unit<T>));
}

/// The strips of 16 keys of one block.
static_assert(lanes == kv_strip_tokens);
template <class T>
const T* strips_of(const AttentionTask& a, int64_t block) {
  return static_cast<const T*>(a.keys) +
         KvPlace::first_in(a.blocks, block).by_head_value(a.width, a.head_dim, 0);
}

template <class T>
const T* values_of(const AttentionTask& a, int64_t block) {
  return static_cast<const T*>(a.values) +
         KvPlace::first_in(a.blocks, block).by_head_token(a.width, a.head_dim, 0);
}

int64_t blocks_of(const AttentionTask& a) { return kv_blocks_for(keys_of(a, a.queries - 1)); }
/// Of a block's tokens, those that the last query sees.
int64_t tokens_seen(const AttentionTask& a, int64_t block) {
  const int64_t left = keys_of(a, a.queries - 1) - block * kv_block_tokens;
  return left < kv_block_tokens ? left : kv_block_tokens;
}
template <class T>
Ahead keys_ahead(const AttentionTask& a, int64_t block) {
  const T* const strips = strips_of<T>(a, block);
  const int64_t seen = (tokens_seen(a, block) + lanes - 1) / lanes * lanes;
  return {reinterpret_cast<const std::byte*>(strips),
          reinterpret_cast<const std::byte*>(strips + seen * a.head_dim)};
}
template <class T>
Ahead values_ahead(const AttentionTask& a, int64_t block) {
  const T* const values = values_of<T>(a, block);
  return {reinterpret_cast<const std::byte*>(values),
          reinterpret_cast<const std::byte*>(values + tokens_seen(a, block) * a.head_dim)};
}

/// Scores of Q queries against S strips of keys, `apart` values from each other; lane = key.
template <class T, int Q, int S>
void score_strips(const AttentionTask& a, int64_t query, const T* keys, int64_t apart, float* scores,
                  int64_t stride, Ahead& ahead) {
  const float* q[Q];
  Vf acc[Q][S];
#pragma GCC unroll 6
  for (int i = 0; i < Q; ++i) {
    q[i] = query_of(a, query + i);
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s) acc[i][s] = splat(0);
  }
  Ahead next = ahead;
  for (int64_t d = 0; d < a.head_dim; ++d) {
    next.fetch<lines_each<T>>();
    Vf key[S];
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s) key[s] = cached(keys + s * apart + d * lanes);
#pragma GCC unroll 6
    for (int i = 0; i < Q; ++i) {
      const Vf value = splat(q[i][d]);
#pragma GCC unroll 4
      for (int s = 0; s < S; ++s) acc[i][s] = fma(value, key[s], acc[i][s]);
    }
  }
  ahead = next;
#pragma GCC unroll 6
  for (int i = 0; i < Q; ++i) {
#pragma GCC unroll 4
    for (int s = 0; s < S; ++s) store(scores + i * stride + s * lanes, mul(acc[i][s], splat(a.scale)));
  }
}

/// Scores of Q queries against the keys of one block that the last of them sees, 16 by 16. Lanes past a
/// query's own position hold what lies there, and softmax leaves them out.
template <class T, int Q>
void score_block(const AttentionTask& a, int64_t query, int64_t block, int64_t stride, Ahead& ahead) {
  const T* const strips = strips_of<T>(a, block);
  float* scores = a.scores + query * stride + block * kv_block_tokens;
  const int64_t seen = keys_of(a, query + Q - 1) - block * kv_block_tokens;
  const int64_t end = seen < kv_block_tokens ? seen : kv_block_tokens, apart = lanes * a.head_dim;
  constexpr int64_t wide = strips_together * lanes;
  int64_t k = 0;
  for (; k + wide <= end; k += wide)
    score_strips<T, Q, strips_together>(a, query, strips + k * a.head_dim, apart, scores + k, stride, ahead);
  for (; k < end; k += lanes)
    score_strips<T, Q, 1>(a, query, strips + k * a.head_dim, apart, scores + k, stride, ahead);
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
void add_values(const AttentionTask& a, int64_t query, int64_t dim, const T* values, const float* weights,
                int64_t first, int64_t last, int64_t stride, Ahead& ahead) {
  const float* p[Q];
  Vf acc[Q][D];
#pragma GCC unroll 6
  for (int i = 0; i < Q; ++i) {
    p[i] = weights + i * stride;
#pragma GCC unroll 4
    for (int d = 0; d < D; ++d) acc[i][d] = load(out_of(a, query + i) + dim + d * lanes);
  }
  Ahead next = ahead;
  for (int64_t k = first; k < last; ++k) {
    next.fetch<lines_each<T>>();
    Vf value[D];
#pragma GCC unroll 4
    for (int d = 0; d < D; ++d) value[d] = cached(values + k * a.head_dim + dim + d * lanes);
#pragma GCC unroll 6
    for (int i = 0; i < Q; ++i) {
      const Vf weight = splat(p[i][k]);
#pragma GCC unroll 4
      for (int d = 0; d < D; ++d) acc[i][d] = fma(weight, value[d], acc[i][d]);
    }
  }
  ahead = next;
#pragma GCC unroll 6
  for (int i = 0; i < Q; ++i) {
#pragma GCC unroll 4
    for (int d = 0; d < D; ++d) store(out_of(a, query + i) + dim + d * lanes, acc[i][d]);
  }
}

template <class T, int Q>
void add_values(const AttentionTask& a, int64_t query, const T* values, const float* weights, int64_t first,
                int64_t last, int64_t stride, Ahead& ahead) {
  constexpr int64_t wide = value_strips * lanes;
  int64_t dim = 0;
  for (; dim + wide <= a.head_dim; dim += wide)
    add_values<T, Q, value_strips>(a, query, dim, values, weights, first, last, stride, ahead);
  for (; dim < a.head_dim; dim += lanes)
    add_values<T, Q, 1>(a, query, dim, values, weights, first, last, stride, ahead);
}

/// Values of one block for Q queries: those that all of them see, then each one's others.
template <class T, int Q>
void add_block_values(const AttentionTask& a, int64_t query, int64_t block, int64_t stride, Ahead& ahead) {
  const T* const values = values_of<T>(a, block);
  const auto last = [&](int64_t of) {
    const int64_t n = keys_of(a, of) - block * kv_block_tokens;
    return n < 0 ? 0 : n < kv_block_tokens ? n : kv_block_tokens;
  };
  const float* weights = a.scores + query * stride + block * kv_block_tokens;
  const int64_t shared = last(query);
  add_values<T, Q>(a, query, values, weights, 0, shared, stride, ahead);
  for (int64_t i = 1; i < Q; ++i)
    if (shared < last(query + i))
      add_values<T, 1>(a, query + i, values, weights + i * stride, shared, last(query + i), stride, ahead);
}

/// `queries` queries of one block, Q or fewer at once.
template <class T, int Q>
void score_queries(const AttentionTask& a, int64_t query, int64_t queries, int64_t block, int64_t stride,
                   Ahead& ahead) {
  if constexpr (Q > 1)
    if (queries < Q) return score_queries<T, Q - 1>(a, query, queries, block, stride, ahead);
  score_block<T, Q>(a, query, block, stride, ahead);
}
template <class T, int Q>
void add_queries_values(const AttentionTask& a, int64_t query, int64_t queries, int64_t block, int64_t stride,
                        Ahead& ahead) {
  if constexpr (Q > 1)
    if (queries < Q) return add_queries_values<T, Q - 1>(a, query, queries, block, stride, ahead);
  add_block_values<T, Q>(a, query, block, stride, ahead);
}

template <class T>
void attention_over(const AttentionTask& a) {
  const int64_t blocks = blocks_of(a), stride = blocks * kv_block_tokens;
  if (!a.fetched) {
    Ahead own = keys_ahead<T>(a, 0);
    while (own.at < own.end) own.fetch<1>();
  }
  for (int64_t b = 0; b < blocks; ++b) {
    Ahead ahead = b + 1 < blocks ? keys_ahead<T>(a, b + 1) : values_ahead<T>(a, 0);
    for (int64_t query = 0; query < a.queries; query += query_tile)
      score_queries<T, query_tile>(a, query, a.queries - query, b, stride, ahead);
  }
  for (int64_t query = 0; query < a.queries; ++query) {
    a.inverse[query] = softmax(a.scores + query * stride, keys_of(a, query));
    float* out = out_of(a, query);
    for (int64_t d = 0; d < a.head_dim; d += lanes) store(out + d, splat(0));
  }
  for (int64_t b = 0; b < blocks; ++b) {
    Ahead ahead;
    if (b + 1 < blocks)
      ahead = values_ahead<T>(a, b + 1);
    else if (a.next)
      ahead = keys_ahead<T>(*a.next, 0);
    for (int64_t query = 0; query < a.queries; query += query_tile)
      add_queries_values<T, query_tile>(a, query, a.queries - query, b, stride, ahead);
  }
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
    case model::DType::f8_e4m3:
      return attention_over<Float8>(a);
    default:
      __builtin_abort();  // Engine let no other type in
  }
}
