#pragma once
// A checkpoint of random weights in any dimensions: sizes that no published model has, at and beside the
// edges of kernels' tiles.

#include "test/gpu/tiny_model.hpp"

namespace convoy::gpu::test {

struct ModelShape {
  std::string name;
  int64_t layers = 2, hidden = 128, intermediate = 192, vocab = 160;
  int64_t heads = 4, kv_heads = 2, head_dim = 32;
  model::RopePairs pairs = model::RopePairs::half_split;
  bool qkv_bias = false, o_bias = false, mlp_bias = false, qk_norm = false;
  std::optional<model::LatentAttention> latent;
  bool split_latent = false;
  std::optional<model::Experts> moe;
  model::DType type = model::DType::f32;
};

class ShapedCheckpoint final : public model::Checkpoint {
 public:
  explicit ShapedCheckpoint(const ModelShape& s, uint32_t seed) : shape_(s), maker_(seed) {
    config_.architecture = "shaped";
    config_.layers = s.layers, config_.hidden = s.hidden, config_.intermediate = s.intermediate,
    config_.vocab = s.vocab;
    config_.heads = s.heads, config_.kv_heads = s.kv_heads,
    config_.head_dim = s.latent ? s.latent->rope : s.head_dim;
    config_.context = 4096, config_.rms_eps = 1e-5, config_.rope.pairs = s.pairs;
    config_.latent = s.latent, config_.moe = s.moe;
    for (int64_t l = 0; l < s.layers; l++) layers_.push_back(layer(l));
    embedding_ = maker_.make({s.vocab, s.hidden}, s.type, 1.0f);
    head_ = matrix(s.vocab, s.hidden), norm_ = vector(s.hidden);
  }

  const model::Config& config() const override { return config_; }
  model::StageWeights stage(model::LayerRange range) const override {
    model::StageWeights weights;
    weights.range = range;
    weights.layers.assign(layers_.begin() + range.first, layers_.begin() + range.last + 1);
    if (range.first == 0) weights.embedding = embedding_;
    if (range.last == config_.layers - 1) weights.final_norm = norm_, weights.head = head_;
    return weights;
  }
  model::StageWeights layout(model::LayerRange range) const override { return stage(range); }
  uint64_t prediction_parameters() const override { return 0; }
  std::string weights_digest(std::stop_token) const override { return "shaped"; }
  const model::NamedFiles& files() const override { return files_; }
  const std::filesystem::path& path() const override { return path_; }
  bool is_gguf() const override { return false; }
  const model::GgufMetadata& metadata() const override { return metadata_; }

 private:
  /// Of a size that keeps activations near 1.
  model::Tensor matrix(int64_t out, int64_t in) {
    model::Tensor tensor = maker_.make({out, in}, shape_.type, 2.0f / std::sqrt(static_cast<float>(in)));
    const size_t count = model::scale_count(shape_.type, out, in);
    if (count == 0) return tensor;
    auto scales = std::make_shared<std::vector<float>>(maker_.values(static_cast<int64_t>(count)));
    for (float& scale : *scales)
      scale = (shape_.type == model::DType::i8 ? 0.02f / std::sqrt(static_cast<float>(in)) : 1.0f) *
              (1.5f + scale);
    tensor.scales = std::as_bytes(std::span(*scales));
    tensor.scales_owner = std::shared_ptr<const model::Mapping>(scales, nullptr);
    return tensor;
  }
  model::Tensor vector(int64_t n) { return maker_.make({n}, model::DType::f32, 1.0f); }

  model::LayerWeights layer(int64_t index) {
    const ModelShape& s = shape_;
    model::LayerWeights w;
    w.attention_norm = vector(s.hidden), w.mlp_norm = vector(s.hidden);
    s.latent ? add_latent(w) : add_grouped(w);
    const bool experts = model::has_experts(config_, index);
    const int64_t width = experts ? s.moe->shared * s.moe->width : s.intermediate;
    if (width > 0)
      w.gate = matrix(width, s.hidden), w.up = matrix(width, s.hidden), w.down = matrix(s.hidden, width);
    if (!experts && s.mlp_bias)
      w.gate_bias = vector(width), w.up_bias = vector(width), w.down_bias = vector(s.hidden);
    if (!experts) return w;
    model::ExpertWeights& e = w.experts.emplace();
    const int64_t count = s.moe->routing.experts;
    e.router =
        maker_.make({count, s.hidden}, model::DType::f32, 2.0f / std::sqrt(static_cast<float>(s.hidden)));
    if (s.moe->routing.biased) e.router_bias = vector(count);
    for (int64_t i = 0; i < count; i++) {
      e.gate.push_back(matrix(s.moe->width, s.hidden)), e.up.push_back(matrix(s.moe->width, s.hidden));
      e.down.push_back(matrix(s.hidden, s.moe->width));
    }
    return w;
  }
  void add_grouped(model::LayerWeights& w) {
    const ModelShape& s = shape_;
    const int64_t q = s.heads * s.head_dim, kv = s.kv_heads * s.head_dim;
    w.q = matrix(q, s.hidden), w.k = matrix(kv, s.hidden), w.v = matrix(kv, s.hidden),
    w.o = matrix(s.hidden, q);
    if (s.qkv_bias) w.q_bias = vector(q), w.k_bias = vector(kv), w.v_bias = vector(kv);
    if (s.o_bias) w.o_bias = vector(s.hidden);
    if (s.qk_norm) w.q_norm = vector(s.head_dim), w.k_norm = vector(s.head_dim);
  }
  void add_latent(model::LayerWeights& w) {
    const model::LatentAttention& l = *shape_.latent;
    const int64_t heads = shape_.heads, hidden = shape_.hidden;
    w.latent = model::LatentWeights{.kv_a = matrix(l.cached(), hidden), .kv_a_norm = vector(l.latent)};
    if (l.q_rank > 0) w.latent->q_a = matrix(l.q_rank, hidden), w.latent->q_a_norm = vector(l.q_rank);
    w.q = matrix(heads * l.query(), l.q_rank > 0 ? l.q_rank : hidden), w.o = matrix(hidden, heads * l.value);
    if (shape_.split_latent)
      w.latent->k_b = matrix(heads * l.latent, l.nope), w.latent->v_b = matrix(heads * l.value, l.latent);
    else
      w.latent->kv_b = matrix(heads * (l.nope + l.value), l.latent);
  }

  ModelShape shape_;
  TensorMaker maker_;
  model::Config config_;
  std::vector<model::LayerWeights> layers_;
  model::Tensor embedding_, head_, norm_;
  std::filesystem::path path_;
  model::NamedFiles files_;
  model::GgufMetadata metadata_;
};

}  // namespace convoy::gpu::test
