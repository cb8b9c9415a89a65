#include "gpu/forward.hpp"

#include <cassert>
#include <cmath>

namespace convoy::gpu {

Forward::Forward(Backend& backend, const model::Checkpoint& checkpoint, model::LayerRange range,
                 int64_t rows_max, const std::function<void(int64_t, int64_t)>& progress)
    : backend_(backend) {
  const model::Config& c = checkpoint.config();
  attention_ = {c.heads, c.kv_heads, c.head_dim, 1.0f / std::sqrt(static_cast<float>(c.head_dim))};
  eps_ = static_cast<float>(c.rms_eps);

  const auto adopt = [&](const model::Tensor& t) { return backend.adopt(t); };
  const auto adopt_if = [&](const std::optional<model::Tensor>& t) {
    return t ? std::optional<Weight>(backend.adopt(*t)) : std::nullopt;
  };
  const model::StageWeights weights = checkpoint.stage(range);
  for (const model::LayerWeights& w : weights.layers) {
    layers_.push_back({adopt(w.attention_norm), adopt(w.q), adopt(w.k), adopt(w.v), adopt(w.o),
                       adopt(w.mlp_norm), adopt(w.gate), adopt(w.up), adopt(w.down), adopt_if(w.q_bias),
                       adopt_if(w.k_bias), adopt_if(w.v_bias)});
    if (progress) progress(static_cast<int64_t>(layers_.size()), range.count());
  }
  embedding_ = adopt_if(weights.embedding);
  final_norm_ = adopt_if(weights.final_norm);
  head_ = adopt_if(weights.head);

  const auto buffer = [&](int64_t width) {
    return RowBuffer{backend.allocate(static_cast<size_t>(rows_max * width) * sizeof(float)), width};
  };
  x_ = buffer(c.hidden), delta_ = buffer(c.hidden), h_ = buffer(c.hidden);
  q_ = buffer(c.heads * c.head_dim), attended_ = buffer(c.heads * c.head_dim);
  k_ = buffer(c.kv_heads * c.head_dim), v_ = buffer(c.kv_heads * c.head_dim);
  gated_ = buffer(c.intermediate);
  if (last()) logits_ = buffer(c.vocab);
}

void Forward::begin(std::span<const int32_t> ids) {
  assert(first());
  rows_ = static_cast<int64_t>(ids.size());
  backend_.embed(*embedding_, ids, x_.first(rows_));
}

void Forward::begin(std::span<const float> hidden) {
  assert(!first());
  rows_ = static_cast<int64_t>(hidden.size()) / x_.width;
  backend_.write(hidden, x_.first(rows_));
}

void Forward::layers(std::span<const SequenceRows> sequences, const KvPool& kv) {
  const Rows x = x_.first(rows_), delta = delta_.first(rows_), h = h_.first(rows_);
  const Rows q = q_.first(rows_), k = k_.first(rows_), v = v_.first(rows_);
  const Rows attended = attended_.first(rows_), gated = gated_.first(rows_);
  const auto pointer = [](const std::optional<Weight>& w) { return w ? &*w : nullptr; };

  for (size_t l = 0; l < layers_.size(); l++) {
    const Layer& w = layers_[l];
    const KvLayer& cache = kv.layer(static_cast<int64_t>(l));
    backend_.add_norm(x, l == 0 ? Rows{} : delta, w.attention_norm, eps_, h);
    const Projection qkv[] = {
        {&w.q, pointer(w.q_bias), q}, {&w.k, pointer(w.k_bias), k}, {&w.v, pointer(w.v_bias), v}};
    backend_.linear(h, qkv);
    backend_.rope_write(q, k, v, attention_, sequences, cache);
    backend_.attention(q, attention_, sequences, cache, attended);
    const Projection out[] = {{&w.o, nullptr, delta}};
    backend_.linear(attended, out);

    backend_.add_norm(x, delta, w.mlp_norm, eps_, h);
    backend_.gated_linear(h, w.gate, w.up, gated);
    const Projection down[] = {{&w.down, nullptr, delta}};
    backend_.linear(gated, down);
  }
}

Rows Forward::logits(std::span<const int32_t> rows) {
  assert(last());
  const Rows out = logits_.first(static_cast<int64_t>(rows.size()));
  backend_.head(x_.first(rows_), delta_.first(rows_), *final_norm_, eps_, *head_, rows, out);
  return out;
}

Rows Forward::hidden() {
  assert(!last());
  backend_.add_norm(x_.first(rows_), delta_.first(rows_), layers_.back().mlp_norm, eps_, Rows{});
  return x_.first(rows_);
}

}  // namespace convoy::gpu
