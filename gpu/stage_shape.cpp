#include "gpu/stage_shape.hpp"

#include <cassert>
#include <cmath>
#include <iterator>

namespace convoy::gpu {

namespace {

class Parts {
 public:
  /// None if the checkpoint has no such tensor.
  void add(Part part, const model::Tensor& tensor, int32_t expert = -1) {
    if (tensor.shape.empty()) return;
    parts_.push_back(
        {part, expert, tensor.type, tensor.rows(), tensor.columns(), tensor.bytes, tensor.scales});
  }
  void add(Part part, const std::optional<model::Tensor>& tensor) {
    if (tensor) add(part, *tensor);
  }
  void add(Part part, const std::vector<model::Tensor>& experts) {
    for (size_t e = 0; e < experts.size(); e++) add(part, experts[e], static_cast<int32_t>(e));
  }
  std::vector<WeightRef> take() { return std::move(parts_); }

 private:
  std::vector<WeightRef> parts_;
};

}  // namespace

StageShape stage_shape(const model::Config& c, model::LayerRange range, bool deterministic) {
  StageShape shape{.layers = range.count(),
                   .first = range.first == 0,
                   .last = range.last == c.layers - 1,
                   .hidden = c.hidden,
                   .intermediate = c.intermediate,
                   .vocab = c.vocab,
                   .heads = c.heads,
                   .kv_heads = c.kv_heads,
                   .head_dim = c.head_dim,
                   .norm_eps = static_cast<float>(c.rms_eps),
                   .attention_scale = model::attention_scale(c),
                   .has_latent = c.latent.has_value(),
                   .has_experts = c.moe.has_value(),
                   .deterministic = deterministic};
  if (c.latent) shape.latent = *c.latent;
  const std::vector<model::CacheStream> streams = model::cache_streams(c);
  assert(streams.size() <= std::size(shape.cache_widths));
  for (size_t i = 0; i < streams.size(); i++) {
    assert(streams[i].tokens_per_entry == 1);
    shape.cache_widths[i] = streams[i].width;
  }
  if (c.moe)
    shape.routing = c.moe->routing, shape.expert_width = c.moe->width, shape.shared_experts = c.moe->shared;
  return shape;
}

std::vector<WeightRef> parts_of(const model::LayerWeights& w) {
  Parts parts;
  parts.add(Part::attention_norm, w.attention_norm);
  parts.add(Part::mlp_norm, w.mlp_norm);
  parts.add(Part::q, w.q), parts.add(Part::k, w.k), parts.add(Part::v, w.v), parts.add(Part::o, w.o);
  parts.add(Part::q_bias, w.q_bias), parts.add(Part::k_bias, w.k_bias);
  parts.add(Part::v_bias, w.v_bias), parts.add(Part::o_bias, w.o_bias);
  parts.add(Part::q_norm, w.q_norm), parts.add(Part::k_norm, w.k_norm);
  if (const auto& l = w.latent) {
    parts.add(Part::q_a, l->q_a), parts.add(Part::q_a_norm, l->q_a_norm);
    parts.add(Part::kv_a, l->kv_a), parts.add(Part::kv_a_norm, l->kv_a_norm);
    parts.add(Part::kv_b, l->kv_b), parts.add(Part::k_b, l->k_b), parts.add(Part::v_b, l->v_b);
  }
  parts.add(Part::gate, w.gate), parts.add(Part::up, w.up), parts.add(Part::down, w.down);
  parts.add(Part::gate_bias, w.gate_bias), parts.add(Part::up_bias, w.up_bias);
  parts.add(Part::down_bias, w.down_bias);
  if (const auto& e = w.experts) {
    parts.add(Part::router, e->router), parts.add(Part::router_bias, e->router_bias);
    parts.add(Part::expert_gate, e->gate), parts.add(Part::expert_up, e->up);
    parts.add(Part::expert_down, e->down);
  }
  return parts.take();
}

std::vector<WeightRef> end_parts_of(const model::StageWeights& w) {
  Parts parts;
  parts.add(Part::embedding, w.embedding);
  parts.add(Part::final_norm, w.final_norm);
  parts.add(Part::head, w.head);
  return parts.take();
}

RotationTable::RotationTable(const model::Rope& rope, int64_t width, int64_t positions)
    : half_(width / 2), pairs_(rope.pairs) {
  const std::vector<double> frequencies = model::rope_frequencies(rope, width);
  const double magnitude = model::rope_magnitude(rope);
  for (auto* table : {&cosines_, &sines_}) table->reserve(static_cast<size_t>(positions * half_));
  for (int64_t p = 0; p < positions; ++p)
    for (const double frequency : frequencies) {
      cosines_.push_back(static_cast<float>(magnitude * std::cos(static_cast<double>(p) * frequency)));
      sines_.push_back(static_cast<float>(magnitude * std::sin(static_cast<double>(p) * frequency)));
    }
}

}  // namespace convoy::gpu
