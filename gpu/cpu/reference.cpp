#include "gpu/cpu/reference.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <vector>

#include "gpu/cpu/cpu_backend.hpp"
#include "gpu/cpu/float_math.hpp"
#include "gpu/cpu/kv_values.hpp"
#include "model/tensor.hpp"

namespace convoy::gpu {
namespace {

/// Without a norm no values.
std::vector<float> widened(const Weight* norm) {
  if (!norm) return {};
  std::vector<float> values(static_cast<size_t>(norm->columns));
  WeightRows(*norm).read(0, values.data());
  return values;
}

void norm_heads(float* heads, int64_t count, const std::vector<float>& norm, float eps) {
  const auto width = static_cast<int64_t>(norm.size());
  if (width == 0) return;
  for (float* head = heads; head < heads + count * width; head += width)
    rms_norm(head, norm.data(), width, eps, head);
}

/// Of keys (stream 0) and values (stream 1) the cache keeps [tokens, kv_heads · head_dim].
class ReferenceBackend final : public CpuBackend {
 public:
  using CpuBackend::CpuBackend;

  std::string_view variant() const override { return "cpu-reference"; }

  Weight adopt(const model::Tensor& tensor) override { return mapped_weight(tensor); }
  void embed(const Weight& table, std::span<const int32_t> ids, Rows x) override;
  void add_norm(Rows x, Rows delta, const Weight& w, float eps, Rows h) override;
  void linear(Rows h, std::span<const Projection> projections) override;
  void gated_linear(Rows h, const Weight& gate, const Weight& up, Rows out) override;
  void rope_write(Rows q, Rows k, Rows v, const HeadNorms& norms, const AttentionShape& shape,
                  std::span<const SequenceRows> sequences, const KvLayer& kv) override;
  void attention(Rows q, const AttentionShape& shape, std::span<const SequenceRows> sequences,
                 const KvLayer& kv, Rows out) override;
  void head(Rows x, Rows delta, const Weight& norm, float eps, const Weight& head,
            std::span<const int32_t> rows, Rows logits) override;
};

void ReferenceBackend::embed(const Weight& table, std::span<const int32_t> ids, Rows x) {
  assert(static_cast<int64_t>(ids.size()) == x.rows && table.columns == x.width);
  WeightRows rows(table);
  for (int64_t r = 0; r < x.rows; r++) {
    assert(ids[r] >= 0 && ids[r] < table.rows);
    std::copy_n(rows.row(ids[r]), x.width, row_of(x, r));
  }
}

void ReferenceBackend::add_norm(Rows x, Rows delta, const Weight& w, float eps, Rows h) {
  for (int64_t r = 0; delta.data && r < x.rows; r++)
    for (int64_t i = 0; i < x.width; i++) row_of(x, r)[i] += row_of(delta, r)[i];
  if (!h.data) return;
  WeightRows weight(w);
  const float* w_row = weight.row(0);
  for (int64_t r = 0; r < x.rows; r++) rms_norm(row_of(x, r), w_row, x.width, eps, row_of(h, r));
}

void ReferenceBackend::linear(Rows h, std::span<const Projection> projections) {
  for (const Projection& p : projections) multiply(pool_, h, *p.weight, p.bias, p.out);
}

void ReferenceBackend::gated_linear(Rows h, const Weight& gate, const Weight& up, Rows out) {
  gpu::gated_linear(pool_, h, gate, up, out);
}

void ReferenceBackend::rope_write(Rows q, Rows k, Rows v, const HeadNorms& norms, const AttentionShape& shape,
                                  std::span<const SequenceRows> sequences, const KvLayer& kv) {
  const int64_t d = shape.head_dim;
  const std::vector<float> q_norm = widened(norms.q), k_norm = widened(norms.k);
  for (const SequenceRows& s : sequences)
    for (int64_t i = 0; i < s.rows; i++) {
      const int64_t row = s.first_row + i, position = s.first_position + i;
      norm_heads(row_of(q, row), shape.heads, q_norm, norms.eps);
      norm_heads(row_of(k, row), shape.kv_heads, k_norm, norms.eps);
      rope_.rotate(row_of(q, row), shape.heads, d, position);
      rope_.rotate(row_of(k, row), shape.kv_heads, d, position);
      store_kv(row_of(k, row), k.width, kv.type, kv_entry(kv, 0, s, position));
      store_kv(row_of(v, row), v.width, kv.type, kv_entry(kv, 1, s, position));
    }
}

void ReferenceBackend::attention(Rows q, const AttentionShape& shape, std::span<const SequenceRows> sequences,
                                 const KvLayer& kv, Rows out) {
  const int64_t d = shape.head_dim, group = shape.heads / shape.kv_heads;
  for (const SequenceRows& s : sequences)
    pool_.parallel_for(s.rows, [&](int64_t i, int) {
      const int64_t seen = s.first_position + i + 1;
      std::vector<float> weights(static_cast<size_t>(seen)), widened(static_cast<size_t>(d));
      for (int64_t head = 0; head < shape.heads; head++) {
        // What the cache holds of position p for this head.
        const auto at = [&](size_t stream, int64_t p) {
          const int64_t offset = head / group * d * model::info(kv.type).block_bytes;
          return load_kv(kv_entry(kv, stream, s, p) + offset, d, kv.type, widened.data());
        };
        const float* query = row_of(q, s.first_row + i) + head * d;
        for (int64_t p = 0; p < seen; p++) weights[p] = shape.scale * dot(query, at(0, p), d);
        const float sum = exponentials(weights);
        float* result = row_of(out, s.first_row + i) + head * d;
        std::fill_n(result, d, 0.0f);
        for (int64_t p = 0; p < seen; p++) add_scaled(weights[p], at(1, p), d, result);
        for (int64_t j = 0; j < d; j++) result[j] /= sum;
      }
    });
}

void ReferenceBackend::head(Rows x, Rows delta, const Weight& norm, float eps, const Weight& head,
                            std::span<const int32_t> rows, Rows logits) {
  const int64_t count = static_cast<int64_t>(rows.size()), n = x.width;
  std::vector<float> h(static_cast<size_t>(count * n)), sum(static_cast<size_t>(n));
  WeightRows weight(norm);
  const float* w = weight.row(0);
  for (int64_t i = 0; i < count; i++) {
    for (int64_t j = 0; j < n; j++)
      sum[j] = row_of(x, rows[i])[j] + (delta.data ? row_of(delta, rows[i])[j] : 0.0f);
    rms_norm(sum.data(), w, n, eps, h.data() + i * n);
  }
  multiply(pool_, {h.data(), count, n}, head, nullptr, logits);
}

}  // namespace

std::unique_ptr<Backend> make_reference_backend(int threads) {
  return std::make_unique<ReferenceBackend>(threads);
}

}  // namespace convoy::gpu
