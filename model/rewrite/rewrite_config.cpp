#include "model/rewrite/rewrite_config.hpp"

#include <boost/json.hpp>
#include <charconv>

#include "model/error.hpp"
#include "model/families.hpp"
#include "model/format/gguf_parts.hpp"
#include "model/json.hpp"

namespace convoy::model {

namespace {

namespace json = boost::json;

// The format's numbers.
constexpr uint32_t mostly_q8_0 = 7, mostly_q4_k = 14;
constexpr uint32_t gating_softmax = 1, gating_sigmoid = 2;
constexpr uint32_t quantization_version = 2;

uint32_t u32(int64_t value) { return static_cast<uint32_t>(value); }  // check_config has seen it

/// A number that came as float32, in the digits that are meant: 1e-06, not 9.999999974752427e-07.
double shortest(double value) {
  char digits[32];
  const auto end = std::to_chars(digits, digits + sizeof digits, static_cast<float>(value)).ptr;
  double result = value;
  std::from_chars(digits, end, result);
  return result;
}

/// What Hugging Face's transformers know the type by. Both leave out the head, and the router, which is not a
/// linear layer there.
json::value quantization_config(RewriteTarget target) {
  if (target == RewriteTarget::fp8_block)
    return {{"quant_method", "fp8"},
            {"fmt", "e4m3"},
            {"activation_scheme", "dynamic"},
            {"weight_block_size", json::array{fp8_block, fp8_block}}};
  const json::object weights{{"num_bits", 8},         {"type", "int"},        {"symmetric", true},
                             {"strategy", "channel"}, {"dynamic", false},     {"group_size", nullptr},
                             {"actorder", nullptr},   {"observer", "minmax"}, {"block_structure", nullptr}};
  const json::object group{{"targets", json::array{"Linear"}},
                           {"weights", weights},
                           {"input_activations", nullptr},
                           {"output_activations", nullptr}};
  return {{"quant_method", "compressed-tensors"},
          {"format", "int-quantized"},
          {"quantization_status", "compressed"},
          {"global_compression_ratio", nullptr},
          {"kv_cache_scheme", nullptr},
          {"ignore", json::array{"lm_head"}},
          {"config_groups", json::object{{"group_0", group}}}};
}

void put_rope(const Config& c, json::object& root) {
  root["rope_theta"] = shortest(c.rope.theta);
  if (!c.rope.yarn) return;
  const YarnRope& yarn = *c.rope.yarn;
  json::object scaling{{"type", "yarn"},
                       {"rope_type", "yarn"},
                       {"factor", shortest(yarn.factor)},
                       {"beta_fast", shortest(yarn.beta_fast)},
                       {"beta_slow", shortest(yarn.beta_slow)},
                       {"original_max_position_embeddings", yarn.original_context}};
  if (c.latent) {
    scaling["mscale"] = shortest(yarn.mscale);
    scaling["mscale_all_dim"] = shortest(yarn.mscale_all_dim);
  } else if (yarn.attn_factor != 1) {
    scaling["attn_factor"] = shortest(yarn.attn_factor);
  }
  root["rope_scaling"] = std::move(scaling);
}

void put_deepseek(const Config& c, json::object& root) {
  const Routing& routing = c.moe->routing;
  const bool v3 = c.architecture == "deepseek_v3";
  if (c.latent->q_rank > 0)
    root["q_lora_rank"] = c.latent->q_rank;
  else
    root["q_lora_rank"] = nullptr;
  root["kv_lora_rank"] = c.latent->latent;
  root["qk_nope_head_dim"] = c.latent->nope;
  root["qk_rope_head_dim"] = c.latent->rope;
  root["v_head_dim"] = c.latent->value;
  root["n_routed_experts"] = routing.experts;
  root["num_experts_per_tok"] = routing.chosen;
  root["n_group"] = routing.groups;
  root["topk_group"] = routing.groups_chosen;
  root["norm_topk_prob"] = routing.normalised;
  root["routed_scaling_factor"] = shortest(routing.scale);
  root["scoring_func"] = v3 ? "sigmoid" : "softmax";
  root["topk_method"] = v3 ? "noaux_tc" : routing.groups > 1 ? "group_limited_greedy" : "greedy";
  root["moe_intermediate_size"] = c.moe->width;
  root["n_shared_experts"] = c.moe->shared;
  root["first_k_dense_replace"] = c.moe->dense_layers;
  root["moe_layer_freq"] = 1;
}

void put_qwen3_moe(const Config& c, json::object& root) {
  root["num_experts"] = c.moe->routing.experts;
  root["num_experts_per_tok"] = c.moe->routing.chosen;
  root["norm_topk_prob"] = c.moe->routing.normalised;
  root["moe_intermediate_size"] = c.moe->width;
  root["decoder_sparse_step"] = c.moe->step;
  root["mlp_only_layers"] = json::array{};
}

/// Out of what a GGUF says.
json::object config_object(const Config& c) {
  json::object root{{"architectures", json::array{json::string_view(family_of(c).model_class)}},
                    {"model_type", c.architecture},
                    {"hidden_act", "silu"},
                    {"hidden_size", c.hidden},
                    {"intermediate_size", c.intermediate},
                    {"max_position_embeddings", c.context},
                    {"num_attention_heads", c.heads},
                    {"num_hidden_layers", c.layers},
                    {"num_key_value_heads", c.kv_heads},
                    {"rms_norm_eps", shortest(c.rms_eps)},
                    {"tie_word_embeddings", c.tied_head},
                    {"vocab_size", c.vocab}};
  if (c.latent)
    put_deepseek(c, root);
  else
    root["head_dim"] = c.head_dim;
  if (c.moe && !c.latent) put_qwen3_moe(c, root);
  if (c.o_bias) root["attention_bias"] = true;
  if (c.mlp_bias) root["mlp_bias"] = true;
  put_rope(c, root);
  if (c.bos_token >= 0) root["bos_token_id"] = c.bos_token;
  if (c.end_tokens.size() == 1) root["eos_token_id"] = c.end_tokens.front();
  if (c.end_tokens.size() > 1) root["eos_token_id"] = json::value_from(c.end_tokens);
  return root;
}

void write_gguf_yarn(const CheckpointParts& source, const std::string& prefix, GgufWriter& gguf) {
  const Config& c = source.config;
  if (!c.rope.yarn) return;
  const YarnRope& yarn = *c.rope.yarn;
  const std::string scaling = prefix + "rope.scaling.";
  gguf.key(scaling + "type", "yarn")
      .key(scaling + "factor", static_cast<float>(yarn.factor))
      .key(scaling + "original_context_length", u32(yarn.original_context))
      .key(scaling + "yarn_beta_fast", static_cast<float>(yarn.beta_fast))
      .key(scaling + "yarn_beta_slow", static_cast<float>(yarn.beta_slow));
  if (yarn.attn_factor != 1) gguf.key(scaling + "attn_factor", static_cast<float>(yarn.attn_factor));
  if (!c.latent) return;
  if (yarn.mscale != yarn.mscale_all_dim)
    throw InputError("has an mscale other than mscale_all_dim, which a GGUF cannot say", source.path.string(),
                     "write safetensors instead");
  gguf.key(scaling + "yarn_log_multiplier", static_cast<float>(0.1 * yarn.mscale_all_dim));
}

}  // namespace

std::string rewritten_config_json(const CheckpointParts& source, RewriteTarget target) {
  json::object root;
  if (source.naming == Naming::gguf) {
    if (family_of(source.config).attention_bias == AttentionBias::optional &&
        source.config.qkv_bias != source.config.o_bias)
      throw InputError("has biases on some of attention's projections, and config.json says all or none",
                       source.path.string(), "write a GGUF");
    root = config_object(source.config);
  } else {
    const auto file = Mapping::open(source.path / "config.json");
    root = parse_json(file->text(), file->path().string()).as_object();  // read before: it is an object
    root["tie_word_embeddings"] = source.config.tied_head;               // what the weights say
  }
  root.erase("quantization_config");
  if (source.config.prediction_layers > 0) root["num_nextn_predict_layers"] = 0;  // they are not written
  root.erase("dtype");
  root["torch_dtype"] = "bfloat16";
  if (target != RewriteTarget::bf16) root["quantization_config"] = quantization_config(target);
  return json::serialize(root);
}

void write_gguf_config(const CheckpointParts& source, RewriteTarget target, GgufWriter& gguf) {
  const Config& c = source.config;
  const std::string architecture(family_of(c).gguf), p = architecture + ".";
  gguf.key("general.architecture", architecture)
      .key("general.type", "model")
      .key("general.name", std::string(without_part(source.path.stem().string())))
      .key("general.file_type", target == RewriteTarget::q8_0 ? mostly_q8_0 : mostly_q4_k)
      .key("general.quantization_version", quantization_version)
      .key(p + "block_count", u32(c.layers))
      .key(p + "context_length", u32(c.context))
      .key(p + "embedding_length", u32(c.hidden))
      .key(p + "feed_forward_length", u32(c.intermediate))
      .key(p + "vocab_size", u32(c.vocab))
      .key(p + "attention.head_count", u32(c.heads))
      .key(p + "attention.head_count_kv", u32(c.latent ? 1 : c.kv_heads))
      .key(p + "attention.layer_norm_rms_epsilon", static_cast<float>(c.rms_eps))
      .key(p + "rope.freq_base", static_cast<float>(c.rope.theta))
      .key(p + "rope.dimension_count", u32(c.head_dim));
  write_gguf_yarn(source, p, gguf);
  if (c.moe)
    gguf.key(p + "expert_count", u32(c.moe->routing.experts))
        .key(p + "expert_used_count", u32(c.moe->routing.chosen))
        .key(p + "expert_feed_forward_length", u32(c.moe->width))
        .key(p + "expert_weights_norm", c.moe->routing.normalised);
  if (!c.latent) {
    gguf.key(p + "attention.key_length", u32(c.head_dim)).key(p + "attention.value_length", u32(c.head_dim));
    return;
  }
  const LatentAttention& l = *c.latent;
  gguf.key(p + "attention.kv_lora_rank", u32(l.latent))
      .key(p + "attention.key_length", u32(l.cached()))
      .key(p + "attention.value_length", u32(l.latent))
      .key(p + "attention.key_length_mla", u32(l.query()))
      .key(p + "attention.value_length_mla", u32(l.value));
  if (l.q_rank > 0) gguf.key(p + "attention.q_lora_rank", u32(l.q_rank));
  const Experts& moe = *c.moe;
  gguf.key(p + "leading_dense_block_count", u32(moe.dense_layers))
      .key(p + "expert_shared_count", u32(moe.shared))
      .key(p + "expert_group_count", u32(moe.routing.groups))
      .key(p + "expert_group_used_count", u32(moe.routing.groups_chosen))
      .key(p + "expert_gating_func",
           moe.routing.scoring == Scoring::sigmoid ? gating_sigmoid : gating_softmax)
      .key(p + "expert_weights_scale", static_cast<float>(moe.routing.scale));
}

}  // namespace convoy::model
