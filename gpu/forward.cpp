#include "gpu/forward.hpp"

#include <algorithm>
#include <cassert>

namespace convoy::gpu {

namespace {

/// With fewer rows, comparing queries with the latents costs less than projecting the cached latents up: with
/// V2's and V3's dimensions, per head and cached token 1,088 products a row against 131,072 once and 320 a
/// row.
constexpr int64_t absorbed_rows_max = 170;

const Weight* pointer(const std::optional<Weight>& weight) { return weight ? &*weight : nullptr; }

}  // namespace

ActivationWidths activation_widths(const model::Config& c, model::LayerRange range) {
  ActivationWidths w;
  w.hidden = c.hidden;
  if (const auto& l = c.latent) {
    w.q_a = l->q_rank, w.q = c.heads * l->query();
    w.kv_a = l->cached(), w.attended = c.heads * l->value;
  } else {
    w.q = w.attended = c.heads * c.head_dim;
    w.k = w.v = c.kv_heads * c.head_dim;
  }
  w.gated = std::max(c.intermediate, c.moe ? c.moe->shared * c.moe->width : 0);
  if (range.last == c.layers - 1) w.logits = c.vocab;
  return w;
}

StepBounds step_bounds(const model::Config& c, model::LayerRange range, const ForwardLimits& limits) {
  const ActivationWidths widths = activation_widths(c, range);
  StepBounds bounds{.rows = limits.rows,
                    .context_tokens = limits.context_tokens,
                    .hidden = c.hidden,
                    .columns = std::max({c.hidden, widths.q_a, widths.attended, widths.gated}),
                    .kv_type = limits.kv_type,
                    .vocab = widths.logits};
  const float scale = model::attention_scale(c);
  if (const auto& l = c.latent)
    bounds.latent = {c.heads,
                     l->latent,
                     l->nope,
                     l->rope,
                     l->value,
                     scale,
                     limits.deterministic ? limits.rows : absorbed_rows_max};
  else
    bounds.attention = {c.heads, c.kv_heads, c.head_dim, scale};
  if (c.moe) {
    bounds.experts = c.moe->routing.experts, bounds.experts_chosen = c.moe->routing.chosen;
    bounds.expert_width = c.moe->width;
    bounds.columns = std::max(bounds.columns, c.moe->width);
  }
  return bounds;
}

Forward::Layer Forward::adopt(const model::LayerWeights& w) {
  const auto one = [&](const model::Tensor& t) { return t.shape.empty() ? Weight{} : backend_.adopt(t); };
  const auto maybe = [&](const std::optional<model::Tensor>& t) {
    return t ? std::optional(backend_.adopt(*t)) : std::nullopt;
  };
  const auto all = [&](const std::vector<model::Tensor>& tensors) {
    std::vector<Weight> weights;
    for (const model::Tensor& t : tensors) weights.push_back(backend_.adopt(t));
    return weights;
  };
  Layer layer{.attention_norm = one(w.attention_norm),
              .q = one(w.q),
              .k = one(w.k),
              .v = one(w.v),
              .o = one(w.o),
              .mlp_norm = one(w.mlp_norm),
              .gate = one(w.gate),
              .up = one(w.up),
              .down = one(w.down),
              .q_bias = maybe(w.q_bias),
              .k_bias = maybe(w.k_bias),
              .v_bias = maybe(w.v_bias),
              .o_bias = maybe(w.o_bias),
              .q_norm = maybe(w.q_norm),
              .k_norm = maybe(w.k_norm),
              .gate_bias = maybe(w.gate_bias),
              .up_bias = maybe(w.up_bias),
              .down_bias = maybe(w.down_bias),
              .latent = {},
              .experts = {}};
  if (const auto& l = w.latent)
    layer.latent = Latent{maybe(l->q_a),  maybe(l->q_a_norm), one(l->kv_a), one(l->kv_a_norm),
                          maybe(l->kv_b), maybe(l->k_b),      maybe(l->v_b)};
  if (const auto& e = w.experts)
    layer.experts = Experts{one(e->router), maybe(e->router_bias), all(e->gate), all(e->up), all(e->down)};
  return layer;
}

Forward::Forward(Backend& backend, const model::Checkpoint& checkpoint, model::LayerRange range,
                 const ForwardLimits& limits, const std::function<void(int64_t, int64_t)>& progress)
    : backend_(backend),
      config_(checkpoint.config()),
      bounds_(step_bounds(config_, range, limits)),
      eps_(static_cast<float>(config_.rms_eps)) {
  const model::StageWeights weights = checkpoint.stage(range);
  for (const model::LayerWeights& w : weights.layers) {
    layers_.push_back(adopt(w));
    if (progress) progress(static_cast<int64_t>(layers_.size()), range.count());
  }
  const auto adopt_if = [&](const std::optional<model::Tensor>& t) {
    return t ? std::optional(backend.adopt(*t)) : std::nullopt;
  };
  embedding_ = adopt_if(weights.embedding);
  final_norm_ = adopt_if(weights.final_norm);
  head_ = adopt_if(weights.head);

  const auto buffer = [&](int64_t width) {
    if (width == 0) return RowBuffer{};
    return RowBuffer{backend.allocate(static_cast<size_t>(limits.rows * width) * sizeof(float)), width};
  };
  const ActivationWidths widths = activation_widths(config_, range);
  x_ = buffer(widths.hidden), delta_ = buffer(widths.hidden), h_ = buffer(widths.hidden);
  q_a_ = buffer(widths.q_a), q_ = buffer(widths.q), k_ = buffer(widths.k), v_ = buffer(widths.v);
  kv_a_ = buffer(widths.kv_a), attended_ = buffer(widths.attended), gated_ = buffer(widths.gated);
  logits_ = buffer(widths.logits);
  backend.reserve(bounds_);
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
  for (size_t l = 0; l < layers_.size(); l++) {
    const Layer& layer = layers_[l];
    const KvLayer& cache = kv.layer(static_cast<int64_t>(l));
    backend_.add_norm(x, l == 0 ? Rows{} : delta, layer.attention_norm, eps_, h);
    if (layer.latent)
      latent_attention(layer, sequences, cache);
    else
      grouped_attention(layer, sequences, cache);
    const Projection out[] = {{&layer.o, pointer(layer.o_bias), delta}};
    backend_.linear(attended_.first(rows_), out);
    backend_.add_norm(x, delta, layer.mlp_norm, eps_, h);
    mlp(layer);
  }
}

void Forward::grouped_attention(const Layer& layer, std::span<const SequenceRows> sequences,
                                const KvLayer& cache) {
  const Rows q = q_.first(rows_), k = k_.first(rows_), v = v_.first(rows_);
  const Projection qkv[] = {{&layer.q, pointer(layer.q_bias), q},
                            {&layer.k, pointer(layer.k_bias), k},
                            {&layer.v, pointer(layer.v_bias), v}};
  backend_.linear(h_.first(rows_), qkv);
  const HeadNorms norms{pointer(layer.q_norm), pointer(layer.k_norm), eps_};
  backend_.rope_write(q, k, v, norms, bounds_.attention, sequences, cache);
  backend_.attention(q, bounds_.attention, sequences, cache, attended_.first(rows_));
}

void Forward::latent_attention(const Layer& layer, std::span<const SequenceRows> sequences,
                               const KvLayer& cache) {
  const Latent& own = *layer.latent;
  const Rows h = h_.first(rows_), q = q_.first(rows_), kv_a = kv_a_.first(rows_);
  const float inner_eps = static_cast<float>(config_.latent->norm_eps);
  if (own.q_a) {
    const Rows q_a = q_a_.first(rows_);
    const Projection down[] = {{&*own.q_a, nullptr, q_a}, {&own.kv_a, nullptr, kv_a}};
    backend_.linear(h, down);
    backend_.add_norm(q_a, Rows{}, *own.q_a_norm, inner_eps, q_a);
    const Projection up[] = {{&layer.q, nullptr, q}};
    backend_.linear(q_a, up);
  } else {
    const Projection both[] = {{&layer.q, nullptr, q}, {&own.kv_a, nullptr, kv_a}};
    backend_.linear(h, both);
  }
  backend_.latent_write(q, kv_a, own.kv_a_norm, inner_eps, bounds_.latent, sequences, cache);
  const LatentProjections projections{pointer(own.kv_b), pointer(own.k_b), pointer(own.v_b)};
  backend_.latent_attention(q, projections, bounds_.latent, sequences, cache, attended_.first(rows_));
}

void Forward::mlp(const Layer& layer) {
  const Rows h = h_.first(rows_), delta = delta_.first(rows_);
  const bool every_token = layer.gate.rows > 0;  // a dense MLP, or shared experts
  if (every_token) {
    const Rows gated = gated_.first(rows_, layer.gate.rows);
    backend_.gated_linear(h,
                          {&layer.gate, &layer.up, pointer(layer.gate_bias), pointer(layer.up_bias), gated});
    const Projection down[] = {{&layer.down, pointer(layer.down_bias), delta}};
    backend_.linear(gated, down);
  }
  if (!layer.experts) return;
  const Experts& e = *layer.experts;
  backend_.experts(h, {&e.router, pointer(e.router_bias), e.gate, e.up, e.down}, config_.moe->routing,
                   every_token ? delta : Rows{}, delta);
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
