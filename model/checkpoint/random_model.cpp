#include "model/checkpoint/random_model.hpp"

#include <algorithm>
#include <boost/json.hpp>
#include <cassert>
#include <charconv>
#include <cmath>

#include "model/digest.hpp"
#include "model/error.hpp"
#include "model/format/quantize.hpp"
#include "model/json.hpp"

namespace convoy::model {

namespace {

namespace json = boost::json;

constexpr std::string_view prefix = "random:";
constexpr int64_t part_values = 1 << 20;
constexpr size_t run_values = 4096;  // widened at once, in the first-level cache

// The fields of each family's config.json, then what the members have for themselves.
constexpr std::string_view llama_config = R"({
  "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
  "attention_bias": false, "attention_dropout": 0.0, "mlp_bias": false, "pretraining_tp": 1,
  "initializer_range": 0.02, "tie_word_embeddings": false, "torch_dtype": "bfloat16", "use_cache": true})";
constexpr std::string_view qwen2_config = R"({
  "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu",
  "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151643, "initializer_range": 0.02,
  "max_position_embeddings": 131072, "tie_word_embeddings": false, "torch_dtype": "bfloat16",
  "use_cache": true, "use_mrope": false, "use_sliding_window": false, "vocab_size": 152064})";
constexpr std::string_view qwen3_config = R"({
  "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_act": "silu", "attention_bias": false,
  "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151645, "head_dim": 128,
  "initializer_range": 0.02, "rms_norm_eps": 1e-06, "rope_theta": 1000000, "sliding_window": null,
  "tie_word_embeddings": false, "torch_dtype": "bfloat16", "use_cache": true, "use_sliding_window": false,
  "vocab_size": 151936})";
constexpr std::string_view deepseek_config = R"({
  "hidden_act": "silu", "attention_bias": false, "attention_dropout": 0.0, "aux_loss_alpha": 0.001,
  "bos_token_id": 100000, "eos_token_id": 100001, "initializer_range": 0.02, "kv_lora_rank": 512,
  "max_position_embeddings": 163840, "moe_layer_freq": 1, "pretraining_tp": 1, "qk_nope_head_dim": 128,
  "qk_rope_head_dim": 64, "v_head_dim": 128, "rms_norm_eps": 1e-06, "rope_theta": 10000, "seq_aux": true,
  "tie_word_embeddings": false, "torch_dtype": "bfloat16", "use_cache": true, "vocab_size": 102400,
  "architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2",
  "norm_topk_prob": false, "scoring_func": "softmax",
  "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
                   "original_max_position_embeddings": 4096, "type": "yarn"}})";

struct Family {
  std::string_view name, common, own;
};
constexpr Family families[] = {
    {"deepseek-llm-7b", llama_config, R"({
      "bos_token_id": 100000, "eos_token_id": 100001, "hidden_size": 4096, "intermediate_size": 11008,
      "max_position_embeddings": 4096, "num_attention_heads": 32, "num_hidden_layers": 30,
      "num_key_value_heads": 32, "rms_norm_eps": 1e-06, "rope_scaling": null, "rope_theta": 10000.0,
      "vocab_size": 102400})"},
    {"r1-distill-qwen-1.5b", qwen2_config, R"({
      "hidden_size": 1536, "intermediate_size": 8960, "max_window_layers": 21, "num_attention_heads": 12,
      "num_hidden_layers": 28, "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 10000,
      "sliding_window": 4096, "vocab_size": 151936})"},
    {"r1-distill-qwen-7b", qwen2_config, R"({
      "hidden_size": 3584, "intermediate_size": 18944, "max_window_layers": 28, "num_attention_heads": 28,
      "num_hidden_layers": 28, "num_key_value_heads": 4, "rms_norm_eps": 1e-06, "rope_theta": 10000,
      "sliding_window": 4096})"},
    {"r1-distill-qwen-14b", qwen2_config, R"({
      "hidden_size": 5120, "intermediate_size": 13824, "max_window_layers": 48, "num_attention_heads": 40,
      "num_hidden_layers": 48, "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0,
      "sliding_window": 131072})"},
    {"r1-distill-qwen-32b", qwen2_config, R"({
      "hidden_size": 5120, "intermediate_size": 27648, "max_window_layers": 64, "num_attention_heads": 40,
      "num_hidden_layers": 64, "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0,
      "sliding_window": 131072})"},
    {"r1-0528-qwen3-8b", qwen3_config, R"({
      "hidden_size": 4096, "intermediate_size": 12288, "max_position_embeddings": 131072,
      "max_window_layers": 36, "num_attention_heads": 32, "num_hidden_layers": 36, "num_key_value_heads": 8,
      "rope_scaling": {"attn_factor": 0.8782488562869419, "factor": 4.0,
                       "original_max_position_embeddings": 32768, "rope_type": "yarn"}})"},
    {"qwen3-30b-a3b", qwen3_config, R"({
      "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "decoder_sparse_step": 1,
      "hidden_size": 2048, "intermediate_size": 6144, "max_position_embeddings": 40960,
      "max_window_layers": 48, "mlp_only_layers": [], "moe_intermediate_size": 768, "norm_topk_prob": true,
      "num_attention_heads": 32, "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 48,
      "num_key_value_heads": 4, "rope_scaling": null})"},
    {"r1-distill-llama-8b", llama_config, R"({
      "bos_token_id": 128000, "eos_token_id": 128001, "hidden_size": 4096, "intermediate_size": 14336,
      "max_position_embeddings": 131072, "num_attention_heads": 32, "num_hidden_layers": 32,
      "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "vocab_size": 128256,
      "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                       "original_max_position_embeddings": 8192, "rope_type": "llama3"}})"},
    {"r1-distill-llama-70b", llama_config, R"({
      "bos_token_id": 128000, "eos_token_id": 128001, "hidden_size": 8192, "intermediate_size": 28672,
      "max_position_embeddings": 131072, "num_attention_heads": 64, "num_hidden_layers": 80,
      "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "vocab_size": 128256,
      "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                       "original_max_position_embeddings": 8192, "rope_type": "llama3"}})"},
    {"deepseek-v2-lite", deepseek_config, R"({
      "hidden_size": 2048, "intermediate_size": 10944, "moe_intermediate_size": 1408,
      "num_attention_heads": 16, "num_hidden_layers": 27, "num_key_value_heads": 16, "q_lora_rank": null,
      "n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1,
      "topk_method": "greedy", "n_group": 1, "topk_group": 1, "routed_scaling_factor": 1.0,
      "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 0.707,
                       "mscale_all_dim": 0.707, "original_max_position_embeddings": 4096, "type": "yarn"}})"},
    {"deepseek-v2", deepseek_config, R"({
      "hidden_size": 5120, "intermediate_size": 12288, "moe_intermediate_size": 1536,
      "num_attention_heads": 128, "num_hidden_layers": 60, "num_key_value_heads": 128, "q_lora_rank": 1536,
      "n_routed_experts": 160, "n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1,
      "topk_method": "group_limited_greedy", "n_group": 8, "topk_group": 3, "routed_scaling_factor": 16.0})"},
    {"deepseek-v3", deepseek_config, R"({
      "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3",
      "bos_token_id": 0, "eos_token_id": 1, "vocab_size": 129280, "ep_size": 1,
      "hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048,
      "num_attention_heads": 128, "num_hidden_layers": 61, "num_key_value_heads": 128, "q_lora_rank": 1536,
      "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 3,
      "topk_method": "noaux_tc", "n_group": 8, "topk_group": 4, "routed_scaling_factor": 2.5,
      "norm_topk_prob": true, "scoring_func": "sigmoid", "num_nextn_predict_layers": 0})"},
};

const Family& find_family(std::string_view name) {
  for (const Family& family : families)
    if (family.name == name) return family;
  std::string choices;
  for (const std::string_view known : random_model_names())
    choices += (choices.empty() ? "" : ", ") + std::string(known);
  throw InputError("the model " + in_quotes(name) + " is not known", "random weights",
                   "choose one of: " + choices);
}

/// Word n of a tensor's stream: SplitMix64, whose state is a counter (Steele, Lea, Flood, OOPSLA 2014).
uint64_t random_word(uint64_t key, uint64_t n) {
  uint64_t z = key + (n + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

uint64_t key_of(uint64_t seed, std::string_view name) {
  Sha256 hash;
  hash.update(std::to_string(seed));
  hash.update(std::string_view("\0", 1));
  hash.update(name);
  const std::string hex = hash.hex();
  uint64_t key = 0;
  std::from_chars(hex.data(), hex.data() + 16, key, 16);
  return key;
}

/// The values of one tensor, any of them alone: four to a word, 16 bits each.
class Values {
 public:
  Values(uint64_t seed, const WantedTensor& tensor) : key_(key_of(seed, tensor.name)) {
    const bool vector = tensor.shape.size() == 1;
    ones_ = vector && tensor.name.ends_with(".weight");
    constexpr double bias_deviation = 0.02;
    const double deviation =
        vector ? bias_deviation : 1 / std::sqrt(static_cast<double>(tensor.shape.back()));
    step_ =
        static_cast<float>(std::sqrt(3.0) * deviation / 32768);  // a uniform number's half width is √3 of it
  }

  void get(uint64_t first, std::span<float> out) const {
    assert(first % 4 == 0);
    if (ones_) {
      std::ranges::fill(out, 1.0f);
      return;
    }
    const size_t whole = out.size() / 4 * 4;
    for (size_t i = 0; i < whole; i += 4) {
      const uint64_t word = random_word(key_, (first + i) / 4);
      for (size_t lane = 0; lane < 4; ++lane) out[i + lane] = value(word, lane);
    }
    for (size_t i = whole; i < out.size(); ++i) out[i] = value(random_word(key_, (first + i) / 4), i % 4);
  }

 private:
  float value(uint64_t word, size_t lane) const {
    return step_ * static_cast<float>(static_cast<int16_t>(word >> (16 * lane)));
  }

  uint64_t key_;
  bool ones_;
  float step_;
};

}  // namespace

std::vector<std::string_view> random_model_names() {
  std::vector<std::string_view> names;
  for (const Family& family : families) names.push_back(family.name);
  return names;
}

bool names_random_model(std::string_view model) { return model.starts_with(prefix); }

RandomModel parse_random_model(std::string_view name) {
  assert(names_random_model(name));
  RandomModel model;
  const std::string_view text = name.substr(prefix.size());
  const size_t colon = text.find(':');
  model.like = text.substr(0, colon);
  find_family(model.like);
  if (colon == text.npos) return model;
  const std::string_view digits = text.substr(colon + 1);
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), model.layers);
  if (error != std::errc() || end != digits.data() + digits.size() || model.layers < 1)
    throw InputError("the number of layers is " + in_quotes(digits), std::string(name),
                     "write random:NAME or random:NAME:LAYERS");
  return model;
}

std::string resolve_model(const std::string& model, const std::filesystem::path& folder) {
  return names_random_model(model) ? model : (folder / model).lexically_normal().string();
}

std::string random_config_json(const RandomModel& model) {
  const Family& family = find_family(model.like);
  json::object config = parse_json(family.common, "").as_object();
  const json::value own = parse_json(family.own, "");
  for (const auto& [key, value] : own.as_object()) config[key] = value;
  json::value& layers = config["num_hidden_layers"];
  if (model.layers < 0 || model.layers > layers.as_int64())
    throw InputError(
        "has " + std::to_string(layers.as_int64()) + " layers, not " + std::to_string(model.layers),
        model.like, "ask for fewer");
  if (model.layers > 0) layers = model.layers;
  if (json::value* dense = config.if_contains("first_k_dense_replace"))
    *dense = std::min(dense->as_int64(), layers.as_int64());
  if (model.type == DType::f32) config["torch_dtype"] = "float32";
  if (model.type == DType::f8_e4m3)
    config["quantization_config"] = {{"activation_scheme", "dynamic"},
                                     {"fmt", "e4m3"},
                                     {"quant_method", "fp8"},
                                     {"weight_block_size", {fp8_block, fp8_block}}};
  return json::serialize(config) + "\n";
}

DType stored_type(const RandomModel& model, const WantedTensor& tensor) {
  if (model.type == DType::f32 || tensor.name.ends_with("e_score_correction_bias")) return DType::f32;
  const bool whole =
      tensor.plain || tensor.name == "model.embed_tokens.weight" || tensor.name == "lm_head.weight";
  return whole ? DType::bf16 : model.type;
}

std::vector<TensorPart> divide(std::span<const WantedTensor* const> tensors) {
  std::vector<TensorPart> parts;
  for (const WantedTensor* tensor : tensors) {
    const int64_t rows = tensor->shape.size() == 2 ? tensor->shape[0] : 1;
    const int64_t blocks = std::max<int64_t>(1, part_values / tensor->shape.back() / fp8_block);
    for (int64_t first = 0; first < rows; first += blocks * fp8_block)
      parts.push_back({tensor, first, std::min(blocks * fp8_block, rows - first)});
  }
  return parts;
}

void generate(const RandomModel& model, const TensorPart& part, std::span<std::byte> out,
              std::span<float> scales) {
  const Values values(model.seed, *part.tensor);
  const DType type = stored_type(model, *part.tensor);
  const int64_t columns = part.tensor->shape.back();
  const auto first = static_cast<uint64_t>(part.first_row * columns);
  const auto count = static_cast<size_t>(part.rows * columns);
  if (type == DType::f8_e4m3) {
    std::vector<float> matrix(count);
    values.get(first, matrix);
    return quantize_block_fp8(matrix, part.rows, columns, out, scales);
  }
  std::vector<float> run(run_values);
  for (size_t at = 0; at < count; at += run.size()) {
    const auto some = std::span(run).first(std::min(run.size(), count - at));
    values.get(first + at, some);
    const size_t value_bytes = info(type).block_bytes;
    quantize_row(type, some, out.subspan(at * value_bytes, some.size() * value_bytes));
  }
}

}  // namespace convoy::model
