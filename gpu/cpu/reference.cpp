#include "gpu/cpu/reference.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>
#include <vector>

#include "gpu/cpu/thread_pool.hpp"
#include "gpu/sampler.hpp"
#include "model/tensor.hpp"

namespace convoy::gpu {
namespace {

float* row_of(Rows rows, int64_t r) { return static_cast<float*>(rows.data) + r * rows.width; }

/// Sixteen partial sums, added up in one order that only n decides. Sixteen, so that the compiler can use
/// vectors.
float dot(const float* a, const float* b, int64_t n) {
  constexpr int64_t lanes = 16;
  float sums[lanes] = {};
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (int64_t j = 0; j < lanes; j++) sums[j] += a[i + j] * b[i + j];
  for (int64_t j = 0; i + j < n; j++) sums[j] += a[i + j] * b[i + j];
  for (int64_t half = lanes / 2; half > 0; half /= 2)
    for (int64_t j = 0; j < half; j++) sums[j] += sums[j + half];
  return sums[0];
}

/// Reads rows of a weight as float32.
class WeightRows {
 public:
  explicit WeightRows(const Weight& weight) : values_(static_cast<size_t>(weight.columns)) {
    tensor_.type = weight.type;
    tensor_.shape = {weight.rows, weight.columns};
    tensor_.bytes = {static_cast<const std::byte*>(weight.data()),
                     static_cast<size_t>(weight.rows) * tensor_.row_bytes()};
  }
  /// Valid until the next call.
  const float* row(int64_t r) {
    model::dequantize_row(tensor_, r, values_);
    return values_.data();
  }

 private:
  model::Tensor tensor_;
  std::vector<float> values_;
};

void rms_norm(const float* x, const float* w, int64_t n, float eps, float* h) {
  const float scale = 1.0f / std::sqrt(dot(x, x, n) / static_cast<float>(n) + eps);
  for (int64_t i = 0; i < n; i++) h[i] = x[i] * scale * w[i];
}

/// out[r][o] = h[r] · weight[o] (+ bias[o])
void multiply(ThreadPool& pool, Rows h, const Weight& weight, const Weight* bias, Rows out) {
  assert(weight.columns == h.width && weight.rows == out.width && h.rows == out.rows);
  std::vector<float> biases(static_cast<size_t>(weight.rows), 0.0f);
  if (bias) {
    assert(bias->columns == weight.rows);
    std::copy_n(WeightRows(*bias).row(0), bias->columns, biases.begin());
  }
  constexpr int64_t outputs_per_chunk = 32;
  pool.parallel_for((weight.rows + outputs_per_chunk - 1) / outputs_per_chunk, [&](int64_t chunk, int) {
    WeightRows rows(weight);
    const int64_t end = std::min(weight.rows, (chunk + 1) * outputs_per_chunk);
    for (int64_t o = chunk * outputs_per_chunk; o < end; o++) {
      const float* w = rows.row(o);
      for (int64_t r = 0; r < h.rows; r++) row_of(out, r)[o] = dot(row_of(h, r), w, h.width) + biases[o];
    }
  });
}

class ReferenceBackend final : public Backend {
 public:
  explicit ReferenceBackend(int threads) : pool_(threads) {}

  std::string_view variant() const override { return "cpu-reference"; }

  Buffer allocate(size_t bytes) override {
    constexpr size_t alignment = 64;
    // Large blocks come from the kernel as untouched pages, so a KV pool costs memory only where it is used.
    void* memory =
        std::aligned_alloc(alignment, (std::max<size_t>(bytes, 1) + alignment - 1) / alignment * alignment);
    if (!memory) throw std::bad_alloc();
    return Buffer(memory, std::free);
  }

  Weight adopt(const model::Tensor& tensor) override {
    auto* data = const_cast<std::byte*>(tensor.bytes.data());  // never written: the mapping is read-only
    return {Buffer(std::const_pointer_cast<model::Mapping>(tensor.owner), data), tensor.type, tensor.rows(),
            tensor.columns()};
  }

  void set_rope(const model::Rope& rope, int64_t head_dim, int64_t positions) override;
  void embed(const Weight& table, std::span<const int32_t> ids, Rows x) override;
  void add_norm(Rows x, Rows delta, const Weight& w, float eps, Rows h) override;
  void linear(Rows h, std::span<const Projection> projections) override;
  void gated_linear(Rows h, const Weight& gate, const Weight& up, Rows out) override;
  void rope_write(Rows q, Rows k, Rows v, const AttentionShape& shape,
                  std::span<const SequenceRows> sequences, const KvLayer& kv) override;
  void attention(Rows q, const AttentionShape& shape, std::span<const SequenceRows> sequences,
                 const KvLayer& kv, Rows out) override;
  void head(Rows x, Rows delta, const Weight& norm, float eps, const Weight& head,
            std::span<const int32_t> rows, Rows logits) override;
  void sample(Rows logits, std::span<const SampleRow> rows, std::span<SampledToken> out) override;
  void read(Rows from, std::span<float> to) override;
  void write(std::span<const float> from, Rows to) override;
  void wait() override {}

 private:
  void rotate(float* heads, int64_t count, int64_t head_dim, int64_t position) const;

  ThreadPool pool_;
  model::RopePairs pairs_ = model::RopePairs::half_split;
  std::vector<float> cos_, sin_;  // [positions, head_dim / 2]
  int64_t positions_ = 0;
};

void ReferenceBackend::set_rope(const model::Rope& rope, int64_t head_dim, int64_t positions) {
  const std::vector<double> frequencies = model::rope_frequencies(rope, head_dim);
  pairs_ = rope.pairs;
  positions_ = positions;
  cos_.clear(), sin_.clear();
  for (int64_t p = 0; p < positions; p++)
    for (double frequency : frequencies) {
      cos_.push_back(static_cast<float>(std::cos(static_cast<double>(p) * frequency)));
      sin_.push_back(static_cast<float>(std::sin(static_cast<double>(p) * frequency)));
    }
}

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
  std::vector<float> up_values(static_cast<size_t>(out.rows * out.width));
  multiply(pool_, h, gate, nullptr, out);
  multiply(pool_, h, up, nullptr, {up_values.data(), out.rows, out.width});
  float* gated = row_of(out, 0);
  for (size_t i = 0; i < up_values.size(); i++)
    gated[i] = gated[i] / (1.0f + std::exp(-gated[i])) * up_values[i];
}

void ReferenceBackend::rotate(float* heads, int64_t count, int64_t head_dim, int64_t position) const {
  assert(position < positions_);
  const int64_t half = head_dim / 2;
  const bool split = pairs_ == model::RopePairs::half_split;
  for (int64_t head = 0; head < count; head++)
    for (int64_t i = 0; i < half; i++) {
      const float c = cos_[position * half + i], s = sin_[position * half + i];
      float& a = heads[head * head_dim + (split ? i : 2 * i)];
      float& b = heads[head * head_dim + (split ? i + half : 2 * i + 1)];
      const float rotated = a * c - b * s;
      b = b * c + a * s;
      a = rotated;
    }
}

void ReferenceBackend::rope_write(Rows q, Rows k, Rows v, const AttentionShape& shape,
                                  std::span<const SequenceRows> sequences, const KvLayer& kv) {
  for (const SequenceRows& s : sequences)
    for (int64_t i = 0; i < s.rows; i++) {
      const int64_t row = s.first_row + i, position = s.first_position + i;
      rotate(row_of(q, row), shape.heads, shape.head_dim, position);
      rotate(row_of(k, row), shape.kv_heads, shape.head_dim, position);
      const int64_t entry =
          s.blocks[position / kv_block_tokens] * kv_block_tokens + position % kv_block_tokens;
      std::copy_n(row_of(k, row), kv.width, static_cast<float*>(kv.k.get()) + entry * kv.width);
      std::copy_n(row_of(v, row), kv.width, static_cast<float*>(kv.v.get()) + entry * kv.width);
    }
}

void ReferenceBackend::attention(Rows q, const AttentionShape& shape, std::span<const SequenceRows> sequences,
                                 const KvLayer& kv, Rows out) {
  const int64_t d = shape.head_dim, group = shape.heads / shape.kv_heads;
  const float* keys = static_cast<const float*>(kv.k.get());
  const float* values = static_cast<const float*>(kv.v.get());
  for (const SequenceRows& s : sequences)
    pool_.parallel_for(s.rows, [&](int64_t i, int) {
      const int64_t seen = s.first_position + i + 1;
      std::vector<float> weights(static_cast<size_t>(seen));
      for (int64_t head = 0; head < shape.heads; head++) {
        // Where position p of this head lies in the cache.
        const auto at = [&](int64_t p) {
          const int64_t entry = s.blocks[p / kv_block_tokens] * kv_block_tokens + p % kv_block_tokens;
          return entry * kv.width + head / group * d;
        };
        const float* query = row_of(q, s.first_row + i) + head * d;
        for (int64_t p = 0; p < seen; p++) weights[p] = shape.scale * dot(query, keys + at(p), d);
        const float largest = *std::max_element(weights.begin(), weights.end());
        float sum = 0;
        for (float& w : weights) sum += w = std::exp(w - largest);
        float* result = row_of(out, s.first_row + i) + head * d;
        std::fill_n(result, d, 0.0f);
        for (int64_t p = 0; p < seen; p++) {
          const float* value = values + at(p);
          for (int64_t j = 0; j < d; j++) result[j] += weights[p] * value[j];
        }
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

void ReferenceBackend::sample(Rows logits, std::span<const SampleRow> rows, std::span<SampledToken> out) {
  assert(static_cast<int64_t>(rows.size()) == logits.rows && rows.size() == out.size());
  for (int64_t r = 0; r < logits.rows; r++)
    out[r] = sample_token({row_of(logits, r), static_cast<size_t>(logits.width)}, rows[r]);
}

void ReferenceBackend::read(Rows from, std::span<float> to) {
  assert(static_cast<int64_t>(to.size()) == from.rows * from.width);
  std::copy_n(row_of(from, 0), to.size(), to.data());
}

void ReferenceBackend::write(std::span<const float> from, Rows to) {
  assert(static_cast<int64_t>(from.size()) == to.rows * to.width);
  std::copy_n(from.data(), from.size(), row_of(to, 0));
}

}  // namespace

std::unique_ptr<Backend> make_reference_backend(int threads) {
  return std::make_unique<ReferenceBackend>(threads);
}

}  // namespace convoy::gpu
