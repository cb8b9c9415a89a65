#include "gpu/forward.hpp"

#include <algorithm>
#include <cassert>

namespace convoy::gpu {

namespace {

/// With fewer rows, comparing queries with the latents costs less than projecting the cached latents up: with
/// V2's and V3's dimensions, per head and cached token 1,088 products a row against 131,072 once and 320 a
/// row.
constexpr int64_t absorbed_rows_max = 170;

/// As the backend reads them: the bytes are the caller's.
model::Tensor tensor_of(const WeightRef& ref) {
  model::Tensor tensor{.type = ref.type, .shape = {ref.rows, ref.columns}, .bytes = ref.bytes, .owner = {}};
  tensor.scales = ref.scales;
  return tensor;
}

}  // namespace

ActivationWidths activation_widths(const StageShape& s) {
  ActivationWidths w;
  w.hidden = s.hidden;
  if (s.has_latent) {
    w.q_a = s.latent.q_rank, w.q = s.heads * s.latent.query();
    w.kv_a = s.latent.cached(), w.attended = s.heads * s.latent.value;
  } else {
    w.q = w.attended = s.heads * s.head_dim;
    w.k = w.v = s.kv_heads * s.head_dim;
  }
  w.gated = std::max(s.intermediate, s.shared_experts * s.expert_width);
  if (s.last) w.logits = s.vocab;
  return w;
}

StepBounds step_bounds(const StageShape& s, const DeviceLimits& limits) {
  const ActivationWidths widths = activation_widths(s);
  StepBounds bounds{.rows = limits.rows,
                    .context_tokens = limits.context_tokens,
                    .hidden = s.hidden,
                    .columns = std::max({s.hidden, widths.q_a, widths.attended, widths.gated}),
                    .vocab = widths.logits};
  if (s.has_latent)
    bounds.latent = {s.heads,
                     s.latent.latent,
                     s.latent.nope,
                     s.latent.rope,
                     s.latent.value,
                     s.attention_scale,
                     s.deterministic ? limits.rows : absorbed_rows_max};
  else
    bounds.attention = {s.heads, s.kv_heads, s.head_dim, s.attention_scale};
  if (s.has_experts) {
    bounds.experts = s.routing.experts, bounds.experts_chosen = s.routing.chosen;
    bounds.expert_width = s.expert_width;
    bounds.columns = std::max(bounds.columns, s.expert_width);
  }
  return bounds;
}

Weight& Forward::Weights::place(const WeightRef& ref) {
  const auto of_expert = [&](std::vector<Weight>& experts) -> Weight& {
    const auto index = static_cast<size_t>(ref.expert);
    if (index >= experts.size()) experts.resize(index + 1);
    return experts[index];
  };
  switch (ref.part) {
    case Part::expert_gate:
      return of_expert(expert_gate);
    case Part::expert_up:
      return of_expert(expert_up);
    case Part::expert_down:
      return of_expert(expert_down);
    default:
      return parts[static_cast<size_t>(ref.part)];
  }
}

void Forward::load(int64_t layer, std::span<const WeightRef> parts) {
  Weights& into = layer < 0 ? ends_ : layers_[static_cast<size_t>(layer)];
  const WeightRef* embedding = nullptr;
  for (const WeightRef& ref : parts) {
    if (ref.part == Part::embedding) embedding = &ref;
    const bool tied = ref.part == Part::head && embedding && ref.bytes.data() == embedding->bytes.data();
    into.place(ref) = tied ? into[Part::embedding] : backend_.adopt(tensor_of(ref));
  }
}

void Forward::open(const DeviceLimits& limits, const Rotations& rotations) {
  const auto buffer = [&](int64_t width) {
    if (width == 0) return RowBuffer{};
    return RowBuffer{backend_.allocate(static_cast<size_t>(limits.rows * width) * sizeof(float)), width};
  };
  const ActivationWidths widths = activation_widths(shape_);
  x_ = buffer(widths.hidden), delta_ = buffer(widths.hidden), h_ = buffer(widths.hidden);
  q_a_ = buffer(widths.q_a), q_ = buffer(widths.q), k_ = buffer(widths.k), v_ = buffer(widths.v);
  kv_a_ = buffer(widths.kv_a), attended_ = buffer(widths.attended), gated_ = buffer(widths.gated);
  logits_ = buffer(widths.logits);
  bounds_ = step_bounds(shape_, limits);
  backend_.reserve(bounds_);
  backend_.set_rope(rotations);
  cache_.clear();
  for (int64_t l = 0; l < shape_.layers; l++) {
    KvLayer& layer = cache_.emplace_back(KvLayer{{}, int64_t{limits.kv_blocks}, limits.kv_type});
    for (const int64_t width : shape_.cache_widths) {
      if (width == 0) continue;
      const int64_t values = limits.kv_blocks * kv_block_tokens * width;
      layer.streams.push_back(
          {backend_.allocate(static_cast<size_t>(values) * model::info(limits.kv_type).block_bytes), width});
    }
  }
}

void Forward::begin(std::span<const int32_t> ids) {
  assert(shape_.first);
  rows_ = static_cast<int64_t>(ids.size());
  backend_.embed(ends_[Part::embedding], ids, x_.first(rows_));
}

void Forward::begin(std::span<const float> hidden) {
  assert(!shape_.first);
  rows_ = static_cast<int64_t>(hidden.size()) / x_.width;
  backend_.write(hidden, x_.first(rows_));
}

void Forward::layers(std::span<const SequenceRows> sequences, RoutingTrace trace) {
  const Rows x = x_.first(rows_), delta = delta_.first(rows_), h = h_.first(rows_);
  const float eps = shape_.norm_eps;
  for (size_t l = 0; l < layers_.size(); l++) {
    const Weights& layer = layers_[l];
    backend_.add_norm(x, l == 0 ? Rows{} : delta, layer[Part::attention_norm], eps, h);
    if (shape_.has_latent)
      latent_attention(layer, sequences, cache_[l]);
    else
      grouped_attention(layer, sequences, cache_[l]);
    const Projection out[] = {{&layer[Part::o], layer.find(Part::o_bias), delta}};
    backend_.linear(attended_.first(rows_), out);
    backend_.add_norm(x, delta, layer[Part::mlp_norm], eps, h);
    mlp(layer, trace);
    if (layer.has(Part::router)) trace = trace.behind(rows_ * shape_.routing.chosen);
  }
}

void Forward::grouped_attention(const Weights& layer, std::span<const SequenceRows> sequences,
                                const KvLayer& cache) {
  const Rows q = q_.first(rows_), k = k_.first(rows_), v = v_.first(rows_);
  const Projection qkv[] = {{&layer[Part::q], layer.find(Part::q_bias), q},
                            {&layer[Part::k], layer.find(Part::k_bias), k},
                            {&layer[Part::v], layer.find(Part::v_bias), v}};
  backend_.linear(h_.first(rows_), qkv);
  const HeadNorms norms{layer.find(Part::q_norm), layer.find(Part::k_norm), shape_.norm_eps};
  backend_.rope_write(q, k, v, norms, bounds_.attention, sequences, cache);
  backend_.attention(q, bounds_.attention, sequences, cache, attended_.first(rows_));
}

void Forward::latent_attention(const Weights& layer, std::span<const SequenceRows> sequences,
                               const KvLayer& cache) {
  const Rows h = h_.first(rows_), q = q_.first(rows_), kv_a = kv_a_.first(rows_);
  const float inner_eps = static_cast<float>(shape_.latent.norm_eps);
  if (layer.has(Part::q_a)) {
    const Rows q_a = q_a_.first(rows_);
    const Projection down[] = {{&layer[Part::q_a], nullptr, q_a}, {&layer[Part::kv_a], nullptr, kv_a}};
    backend_.linear(h, down);
    backend_.add_norm(q_a, Rows{}, layer[Part::q_a_norm], inner_eps, q_a);
    const Projection up[] = {{&layer[Part::q], nullptr, q}};
    backend_.linear(q_a, up);
  } else {
    const Projection both[] = {{&layer[Part::q], nullptr, q}, {&layer[Part::kv_a], nullptr, kv_a}};
    backend_.linear(h, both);
  }
  backend_.latent_write(q, kv_a, layer[Part::kv_a_norm], inner_eps, bounds_.latent, sequences, cache);
  const LatentProjections projections{layer.find(Part::kv_b), layer.find(Part::k_b), layer.find(Part::v_b)};
  backend_.latent_attention(q, projections, bounds_.latent, sequences, cache, attended_.first(rows_));
}

void Forward::mlp(const Weights& layer, const RoutingTrace& trace) {
  const Rows h = h_.first(rows_), delta = delta_.first(rows_);
  const bool every_token = layer.has(Part::gate);  // a dense MLP, or shared experts
  if (every_token) {
    const Rows gated = gated_.first(rows_, layer[Part::gate].rows);
    backend_.gated_linear(h, {&layer[Part::gate], &layer[Part::up], layer.find(Part::gate_bias),
                              layer.find(Part::up_bias), gated});
    const Projection down[] = {{&layer[Part::down], layer.find(Part::down_bias), delta}};
    backend_.linear(gated, down);
  }
  if (!layer.has(Part::router)) return;
  const ExpertSet experts{&layer[Part::router], layer.find(Part::router_bias), layer.expert_gate,
                          layer.expert_up, layer.expert_down};
  backend_.experts(h, experts, shape_.routing, trace, every_token ? delta : Rows{}, delta);
}

Rows Forward::logits(std::span<const int32_t> rows) {
  assert(shape_.last);
  const Rows out = logits_.first(static_cast<int64_t>(rows.size()));
  backend_.head(x_.first(rows_), delta_.first(rows_), ends_[Part::final_norm], shape_.norm_eps,
                ends_[Part::head], rows, out);
  return out;
}

Rows Forward::hidden() {
  assert(!shape_.last);
  backend_.add_norm(x_.first(rows_), delta_.first(rows_), layers_.back()[Part::mlp_norm], shape_.norm_eps,
                    Rows{});
  return x_.first(rows_);
}

void Forward::each_stream_of(uint32_t block, const std::function<void(std::span<std::byte>)>& visit) {
  for (const KvLayer& layer : cache_)
    for (const KvStream& stream : layer.streams) {
      const auto bytes =
          static_cast<size_t>(kv_block_tokens * stream.width) * model::info(layer.type).block_bytes;
      visit({static_cast<std::byte*>(stream.memory.get()) + block * bytes, bytes});
    }
}

}  // namespace convoy::gpu
