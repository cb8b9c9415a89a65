#pragma once
// The memory that FastBackend's operations work in: its sizes, for an operation and for all that a stage's
// steps may bring.

#include <algorithm>
#include <optional>

#include "gpu/cpu/experts.hpp"
#include "gpu/cpu/fast_latent.hpp"
#include "gpu/cpu/kernels.hpp"
#include "gpu/cpu/memory.hpp"

namespace convoy::gpu {

/// Queries of one attention task, where a row has no more: they share the keys that are in the first cache.
inline constexpr int64_t queries_per_task = 24;

/// Of each thread in `attention`: the scores of so many queries with so many keys, and a sum of each.
inline size_t attention_scratch_bytes(int64_t queries, int64_t keys) {
  return static_cast<size_t>(queries * (keys + 1)) * sizeof(float);
}

/// Rows of one attention task.
inline int64_t rows_per_task(int64_t group) { return std::max<int64_t>(1, queries_per_task / group); }

/// Of each thread in all operations.
inline size_t fast_thread_bytes(const StepBounds& b) {
  const size_t products = std::max(linear_scratch_bytes(b.columns), fast_latent_thread_bytes(b));
  if (b.attention.heads == 0) return products;
  const int64_t group = b.attention.heads / b.attention.kv_heads;
  return std::max(products, attention_scratch_bytes(rows_per_task(group) * group,
                                                    kv_blocks_for(b.context_tokens) * kv_block_tokens));
}

/// Outputs of one product, or of a gate and then its partner, which are computed together, for so many rows
/// of the activations.
struct RowProduct {
  Product product;
  std::optional<Product> gated;
  int64_t first_row = 0, rows = 0;
};

struct FastRooms {
  // Of the rows that the latest product read.
  Room<int8_t> q;
  Room<float> d, s;
  Room<int32_t> sum;  // whole blocks', then their first halves', then their second
  Room<float> head_rows;
  Room<AttentionTask> tasks;
  Room<RowProduct> parts;  // of the latest product with experts
  LatentRooms latent;

  void each(const StepBounds& b, auto&& use) {
    const int64_t rows = std::max(b.rows, visits_max(b.rows, b.experts_chosen));
    const int64_t blocks = rows * b.columns / 32;
    use(q, rows * b.columns), use(d, blocks), use(s, blocks), use(sum, 3 * blocks);
    use(head_rows, b.rows * b.hidden);
    use(tasks, b.rows * b.attention.heads);
    use(parts, b.experts);
    latent.each(b, use);
  }
};

}  // namespace convoy::gpu
