// Causal attention over the paged cache. Part of kernels.inl.

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
  const float* keys = a.keys + KvPlace::first_in(a.blocks, block).by_value(a.width);
  const float* q[Q];
  for (int i = 0; i < Q; ++i) q[i] = query_of(a, query + i);
  constexpr int strips = score_strips;  // of 16 keys at once
  for (int64_t k = 0; k < kv_block_tokens; k += strips * lanes) {
    Vf acc[Q][strips];
#pragma GCC unroll 4
    for (int i = 0; i < Q; ++i) {
#pragma GCC unroll 4
      for (int s = 0; s < strips; ++s) acc[i][s] = splat(0);
    }
    for (int64_t d = 0; d < a.head_dim; ++d) {
      Vf key[strips];
#pragma GCC unroll 4
      for (int s = 0; s < strips; ++s) key[s] = load(keys + d * kv_block_tokens + k + s * lanes);
#pragma GCC unroll 4
      for (int i = 0; i < Q; ++i) {
        const Vf value = splat(q[i][d]);
#pragma GCC unroll 4
        for (int s = 0; s < strips; ++s) acc[i][s] = fma(value, key[s], acc[i][s]);
      }
    }
#pragma GCC unroll 4
    for (int i = 0; i < Q; ++i) {
      float* out = a.scores + (query + i) * stride + block * kv_block_tokens + k;
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
  const float* values = a.values + KvPlace::first_in(a.blocks, block).by_token(a.width, dim);
  const float* p[Q];
  Vf acc[Q][D];
#pragma GCC unroll 4
  for (int i = 0; i < Q; ++i) {
    p[i] = a.scores + (query + i) * stride + block * kv_block_tokens;
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
  const int64_t blocks = kv_blocks_for(keys_max), stride = blocks * kv_block_tokens;
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
      const int64_t n = keys_of(a, query) - b * kv_block_tokens;
      return n < 0 ? 0 : n < kv_block_tokens ? n : kv_block_tokens;
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
