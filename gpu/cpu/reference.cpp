#include "gpu/cpu/reference.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>

#include "gpu/cpu/cpu_backend.hpp"
#include "gpu/cpu/float_math.hpp"
#include "gpu/cpu/kv_values.hpp"
#include "model/tensor.hpp"

namespace convoy::gpu {
namespace {

void norm_heads(float* heads, int64_t count, const Weight* norm, float eps) {
  if (!norm) return;
  const int64_t width = norm->columns;
  for (float* head = heads; head < heads + count * width; head += width)
    rms_norm(head, vector_values(*norm), width, eps, head);
}

/// Of each thread in `attention`: the weights of all positions, and a widened head.
size_t attention_scratch_bytes(int64_t positions, int64_t head_dim) {
  return static_cast<size_t>(positions + head_dim) * sizeof(float);
}

size_t reference_scratch_bytes(const StepBounds& b) {
  return std::max(
      multiply_scratch_bytes(b.columns),
      attention_scratch_bytes(b.attention.heads > 0 ? b.context_tokens : 0, b.attention.head_dim));
}

struct ReferenceRooms {
  Room<float> head_rows;  // normalised: [rows, hidden]
  void each(const StepBounds& b, auto&& use) { use(head_rows, b.rows * b.hidden); }
};

/// Of keys (stream 0) and values (stream 1) the cache keeps [tokens, kv_heads · head_dim].
class ReferenceBackend final : public CpuBackend {
 public:
  explicit ReferenceBackend(int threads) : CpuBackend("cpu-reference", threads) {}

  Weight adopt(const model::Tensor& tensor) override { return adopt_weight(tensor); }
  uint64_t reserved_bytes(const StepBounds& bounds) const override {
    return scratch_bytes_of<ReferenceRooms>(pool_.threads(), reference_scratch_bytes(bounds), bounds);
  }
  void embed(const Weight& table, std::span<const int32_t> ids, Rows x) override;
  void add_norm(Rows x, Rows delta, const Weight& w, float eps, Rows h) override;
  void linear(Rows h, std::span<const Projection> projections) override;
  void gated_linear(Rows h, const GatedProjection& projection) override;
  void rope_write(Rows q, Rows k, Rows v, const HeadNorms& norms, const AttentionShape& shape,
                  std::span<const SequenceRows> sequences, const KvLayer& kv) override;
  void attention(Rows q, const AttentionShape& shape, std::span<const SequenceRows> sequences,
                 const KvLayer& kv, Rows out) override;
  void head(Rows x, Rows delta, const Weight& norm, float eps, const Weight& head,
            std::span<const int32_t> rows, Rows logits) override;

 private:
  size_t scratch_bytes(const StepBounds& bounds) const override { return reference_scratch_bytes(bounds); }
  void each_room(const StepBounds& bounds, TakeRoom take) override { rooms_.each(bounds, take); }

  ReferenceRooms rooms_;
};

void ReferenceBackend::embed(const Weight& table, std::span<const int32_t> ids, Rows x) {
  assert(static_cast<int64_t>(ids.size()) == x.rows && table.columns == x.width);
  for (int64_t r = 0; r < x.rows; r++) read_row(table, ids[r], row_of(x, r));
}

void ReferenceBackend::add_norm(Rows x, Rows delta, const Weight& w, float eps, Rows h) {
  for (int64_t r = 0; delta.data && r < x.rows; r++)
    for (int64_t i = 0; i < x.width; i++) row_of(x, r)[i] += row_of(delta, r)[i];
  if (!h.data) return;
  for (int64_t r = 0; r < x.rows; r++) rms_norm(row_of(x, r), vector_values(w), x.width, eps, row_of(h, r));
}

void ReferenceBackend::linear(Rows h, std::span<const Projection> projections) {
  for (const Projection& p : projections) multiply(pool_, scratch_, h, *p.weight, p.bias, p.out);
}

void ReferenceBackend::gated_linear(Rows h, const GatedProjection& projection) {
  gated_multiply(pool_, scratch_, h, projection);
}

void ReferenceBackend::rope_write(Rows q, Rows k, Rows v, const HeadNorms& norms, const AttentionShape& shape,
                                  std::span<const SequenceRows> sequences, const KvLayer& kv) {
  const int64_t d = shape.head_dim;
  for (const SequenceRows& s : sequences)
    for (int64_t i = 0; i < s.rows; i++) {
      const int64_t row = s.first_row + i, position = s.first_position + i;
      norm_heads(row_of(q, row), shape.heads, norms.q, norms.eps);
      norm_heads(row_of(k, row), shape.kv_heads, norms.k, norms.eps);
      rotate(rope_, row_of(q, row), shape.heads, d, position);
      rotate(rope_, row_of(k, row), shape.kv_heads, d, position);
      store_kv(row_of(k, row), k.width, kv.type, kv_entry(kv, 0, s, position));
      store_kv(row_of(v, row), v.width, kv.type, kv_entry(kv, 1, s, position));
    }
}

void ReferenceBackend::attention(Rows q, const AttentionShape& shape, std::span<const SequenceRows> sequences,
                                 const KvLayer& kv, Rows out) {
  const int64_t d = shape.head_dim, group = shape.heads / shape.kv_heads;
  for (const SequenceRows& s : sequences) {
    scratch_.reserve(attention_scratch_bytes(s.first_position + s.rows, d));
    pool_.parallel_for(s.rows, [&](int64_t i, int thread) {
      const int64_t seen = s.first_position + i + 1;
      float *const weights = scratch_.floats_of(thread), *const widened = weights + seen;
      for (int64_t head = 0; head < shape.heads; head++) {
        // What the cache holds of position p for this head.
        const auto at = [&](size_t stream, int64_t p) {
          const int64_t offset = head / group * d * model::info(kv.type).block_bytes;
          return load_kv(kv_entry(kv, stream, s, p) + offset, d, kv.type, widened);
        };
        const float* query = row_of(q, s.first_row + i) + head * d;
        for (int64_t p = 0; p < seen; p++) weights[p] = shape.scale * dot(query, at(0, p), d);
        const float sum = exponentials({weights, static_cast<size_t>(seen)});
        float* result = row_of(out, s.first_row + i) + head * d;
        std::fill_n(result, d, 0.0f);
        for (int64_t p = 0; p < seen; p++) add_scaled(weights[p], at(1, p), d, result);
        for (int64_t j = 0; j < d; j++) result[j] /= sum;
      }
    });
  }
}

void ReferenceBackend::head(Rows x, Rows delta, const Weight& norm, float eps, const Weight& head,
                            std::span<const int32_t> rows, Rows logits) {
  const int64_t count = static_cast<int64_t>(rows.size()), n = x.width;
  const Rows h{rooms_.head_rows.at_least(count * n), count, n};
  for (int64_t i = 0; i < count; i++) {
    float* sum = row_of(h, i);
    for (int64_t j = 0; j < n; j++)
      sum[j] = row_of(x, rows[i])[j] + (delta.data ? row_of(delta, rows[i])[j] : 0.0f);
    rms_norm(sum, vector_values(norm), n, eps, sum);
  }
  multiply(pool_, scratch_, h, head, nullptr, logits);
}

}  // namespace

std::unique_ptr<Backend> make_reference_backend(int threads) {
  return std::make_unique<ReferenceBackend>(threads);
}

}  // namespace convoy::gpu
