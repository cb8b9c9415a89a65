#pragma once
// A small model with seeded random weights in memory, and the backends that every test of this folder runs
// over.

#include <array>
#include <boost/test/unit_test.hpp>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gpu/backend.hpp"
#include "gpu/engine.hpp"
#include "gpu/stage_shape.hpp"
#include "model/checkpoint/checkpoint.hpp"
#include "model/error.hpp"
#include "model/format/quantize.hpp"

namespace convoy::gpu::test {

struct BackendChoice {
  Kernels kernels;
  int threads;
  std::string name() const {
    return std::string(kernels == Kernels::fast ? "fast" : "reference") + " on " + std::to_string(threads) +
           " threads";
  }
  std::unique_ptr<Backend> make() const { return make_cpu_backend(kernels, threads); }
  DeviceFactory device() const { return cpu_device(kernels, threads); }
};

/// All that this build and this processor have, on numbers of threads that do and do not divide the work.
inline std::vector<BackendChoice> backends() {
#ifdef __SANITIZE_ADDRESS__
  constexpr int thread_counts[] = {1, 3};  // tests are several times slower
#else
  constexpr int thread_counts[] = {1, 2, 3};
#endif
  std::vector<BackendChoice> choices;
  for (Kernels kernels : {Kernels::reference, Kernels::fast})
    for (int threads : thread_counts) {
      const BackendChoice choice{kernels, threads};
      try {
        choice.make();
      } catch (const InputError& e) {
        BOOST_TEST_MESSAGE("without " << choice.name() << ": " << e.what());
        continue;
      }
      choices.push_back(choice);
    }
  return choices;
}

/// Seeded random tensors of any type.
class TensorMaker {
 public:
  explicit TensorMaker(uint32_t seed) : random_(seed) {}

  /// Values of roughly ±scale.
  model::Tensor make(std::vector<int64_t> shape, model::DType type, float scale) {
    model::Tensor tensor;
    tensor.type = type;
    tensor.shape = std::move(shape);
    auto bytes =
        std::make_shared<std::vector<std::byte>>(tensor.row_bytes() * static_cast<size_t>(tensor.rows()));
    fill(*bytes, type, scale);
    tensor.bytes = *bytes;
    tensor.owner =
        std::shared_ptr<const model::Mapping>(bytes, nullptr);  // owns the bytes; there is no mapping
    return tensor;
  }
  std::vector<float> values(int64_t count, float scale = 1) {
    std::vector<float> out(static_cast<size_t>(count));
    for (float& value : out) value = scale * uniform_(random_);
    return out;
  }
  std::vector<int32_t> ids(size_t count, int64_t vocab) {
    std::vector<int32_t> out(count);
    for (int32_t& id : out) id = static_cast<int32_t>(random_() % static_cast<uint32_t>(vocab));
    return out;
  }

 private:
  void put(std::byte* at, uint16_t half) { std::memcpy(at, &half, 2); }
  void put_f16(std::byte* at, float value) { put(at, model::f32_to_f16(value)); }

  void fill(std::vector<std::byte>& bytes, model::DType type, float scale) {
    const auto block = model::info(type).block_bytes;
    for (size_t at = 0; at < bytes.size(); at += block) {
      std::byte* p = bytes.data() + at;
      const float value = scale * uniform_(random_);
      for (size_t i = 0; i < block; i++) p[i] = static_cast<std::byte>(random_() & 0xff);
      if (type == model::DType::f32) std::memcpy(p, &value, 4);
      if (type == model::DType::f16) put_f16(p, value);
      if (type == model::DType::bf16) put(p, model::f32_to_bf16(value));
      if (type == model::DType::q8_0) put_f16(p, scale / 127);
      if (type == model::DType::q4_0) put_f16(p, scale / 8);
      if (type == model::DType::q4_1) put_f16(p, scale / 8), put_f16(p + 2, -scale);
      if (type == model::DType::iq4_nl) put_f16(p, scale / 127);
      // Parts of random scale, and minimums that put their middle at zero.
      if (type == model::DType::q4_k) put_f16(p, scale / 512), put_f16(p + 2, scale / 68);
      if (type == model::DType::q5_k) put_f16(p, scale / 1024), put_f16(p + 2, scale / 66);
      if (type == model::DType::q6_k) put_f16(p + 208, scale / 2048);
      if (type == model::DType::f8_e4m3) *p = std::byte{model::f32_to_f8_e4m3(value)};
    }
  }

  std::mt19937 random_;
  std::uniform_real_distribution<float> uniform_{-1, 1};
};

/// Llama's parts; with biases for queries, keys and values; with norms of each head; with experts and none
/// shared; or latent attention with experts, one shared.
enum class Tiny : uint8_t { llama, qwen2, qwen3, qwen3_moe, deepseek };

class TinyCheckpoint final : public model::Checkpoint {
 public:
  explicit TinyCheckpoint(model::DType type, Tiny kind = Tiny::llama, int64_t vocab = 160) : type_(type) {
    const bool wide = model::info(type).block_values > 128;  // every row is whole blocks
    config_.layers = 3, config_.hidden = wide ? 256 : 128, config_.intermediate = wide ? 256 : 192;
    config_.vocab = vocab;
    config_.heads = 4, config_.context = 512, config_.rms_eps = 1e-5;
    kind == Tiny::deepseek ? describe_deepseek() : describe_llama(kind);
    for (int64_t l = 0; l < config_.layers; l++) {
      model::LayerWeights w;
      w.attention_norm = vector(config_.hidden), w.mlp_norm = vector(config_.hidden);
      config_.latent ? add_latent_attention(w, l) : add_grouped_attention(w);
      add_mlp(w, l);
      layers_.push_back(std::move(w));
    }
    embedding_ = matrix(config_.vocab, config_.hidden);
    norm_ = vector(config_.hidden);
  }

  const model::Config& config() const override { return config_; }
  model::StageWeights stage(model::LayerRange range) const override {
    model::StageWeights weights;
    weights.range = range;
    weights.layers.assign(layers_.begin() + range.first, layers_.begin() + range.last + 1);
    if (range.first == 0) weights.embedding = embedding_;
    if (range.last == config_.layers - 1) weights.final_norm = norm_, weights.head = embedding_;
    return weights;
  }
  model::StageWeights layout(model::LayerRange range) const override { return stage(range); }
  uint64_t prediction_parameters() const override { return 0; }
  std::string weights_digest(std::stop_token) const override { return "tiny"; }
  const model::NamedFiles& files() const override { return files_; }
  const std::filesystem::path& path() const override { return path_; }
  bool is_gguf() const override { return false; }
  const std::map<std::string, model::GgufValue, std::less<>>& metadata() const override { return metadata_; }

 private:
  void describe_llama(Tiny kind) {
    const bool qwen3 = kind == Tiny::qwen3 || kind == Tiny::qwen3_moe;
    config_.architecture = kind == Tiny::qwen2 ? "qwen2" : qwen3 ? "qwen3" : "llama";
    if (kind == Tiny::qwen3_moe)
      config_.moe = model::Experts{.routing = {.experts = 6, .chosen = 2, .normalised = true}, .width = 64};
    config_.kv_heads = 2, config_.head_dim = config_.hidden / 4;
    config_.qkv_bias = kind == Tiny::qwen2, config_.qk_norm = qwen3;
  }
  void describe_deepseek() {
    config_.architecture = "deepseek_v3";
    config_.kv_heads = config_.heads, config_.head_dim = 16;
    config_.rope.pairs = model::RopePairs::interleaved;
    config_.latent = model::LatentAttention{.q_rank = 64, .latent = 64, .nope = 32, .rope = 16, .value = 32};
    config_.moe = model::Experts{.routing = {.experts = 8,
                                             .chosen = 3,
                                             .groups = 4,
                                             .groups_chosen = 2,
                                             .scoring = model::Scoring::sigmoid,
                                             .group_score = model::GroupScore::best_two,
                                             .biased = true,
                                             .normalised = true,
                                             .scale = 2.5},
                                 .width = 64,
                                 .shared = 1,
                                 .dense_layers = 1};
    model::check_config(config_, "tiny");
  }

  model::Tensor matrix(int64_t out, int64_t in) { return maker_.make({out, in}, type_, 0.25f); }
  model::Tensor vector(int64_t n) { return maker_.make({n}, model::DType::f32, 1.0f); }

  void add_grouped_attention(model::LayerWeights& w) {
    const int64_t hidden = config_.hidden, kv = config_.kv_heads * config_.head_dim;
    w.q = matrix(hidden, hidden), w.k = matrix(kv, hidden), w.v = matrix(kv, hidden),
    w.o = matrix(hidden, hidden);
    if (config_.qkv_bias) w.q_bias = vector(hidden), w.k_bias = vector(kv), w.v_bias = vector(kv);
    if (config_.qk_norm) w.q_norm = vector(config_.head_dim), w.k_norm = vector(config_.head_dim);
  }
  /// Even layers have their projections joint, odd ones split.
  void add_latent_attention(model::LayerWeights& w, int64_t layer) {
    const model::LatentAttention& l = *config_.latent;
    const int64_t heads = config_.heads;
    w.q = matrix(heads * l.query(), l.q_rank), w.o = matrix(config_.hidden, heads * l.value);
    w.latent = model::LatentWeights{.q_a = matrix(l.q_rank, config_.hidden),
                                    .q_a_norm = vector(l.q_rank),
                                    .kv_a = matrix(l.cached(), config_.hidden),
                                    .kv_a_norm = vector(l.latent)};
    if (layer % 2 == 0)
      w.latent->kv_b = matrix(heads * (l.nope + l.value), l.latent);
    else
      w.latent->k_b = matrix(heads * l.latent, l.nope), w.latent->v_b = matrix(heads * l.value, l.latent);
  }
  void add_mlp(model::LayerWeights& w, int64_t layer) {
    const int64_t hidden = config_.hidden;
    const bool experts = model::has_experts(config_, layer);
    const int64_t width = experts ? config_.moe->shared * config_.moe->width : config_.intermediate;
    if (width > 0)
      w.gate = matrix(width, hidden), w.up = matrix(width, hidden), w.down = matrix(hidden, width);
    if (!experts) return;
    const int64_t count = config_.moe->routing.experts;
    model::ExpertWeights& e = w.experts.emplace();
    e.router = maker_.make({count, hidden}, model::DType::f32, 0.25f);
    if (config_.moe->routing.biased) e.router_bias = vector(count);
    for (int64_t i = 0; i < count; i++) {
      e.gate.push_back(matrix(config_.moe->width, hidden)),
          e.up.push_back(matrix(config_.moe->width, hidden));
      e.down.push_back(matrix(hidden, config_.moe->width));
    }
  }

  model::DType type_;
  TensorMaker maker_{11};
  model::Config config_;
  std::vector<model::LayerWeights> layers_;
  model::Tensor embedding_, norm_;
  std::filesystem::path path_;
  model::NamedFiles files_;
  std::map<std::string, model::GgufValue, std::less<>> metadata_;
};

inline const EngineLimits tiny_limits{
    .kv_blocks = 24, .slots = 4, .context_tokens = 512, .rows_per_step = 512};

}  // namespace convoy::gpu::test
