#include <algorithm>
#include <boost/json.hpp>
#include <cmath>

#include "model/config.hpp"
#include "model/config_fields.hpp"
#include "model/error.hpp"
#include "model/families.hpp"
#include "model/json.hpp"
#include "model/tensor.hpp"

namespace convoy::model {

namespace json = boost::json;

namespace {

const Family& read_family(const Fields& fields) {
  const auto name = fields.text("model_type");
  const Family* const family = name ? find_family(*name) : nullptr;
  if (!family)
    fields.fail("model_type", name ? "the architecture " + in_quotes(*name) + " is not known" : "is missing",
                "Convoy runs " + family_names());
  if (fields.find("architectures"))
    fields.only("architectures", json::array{json::string_view(family->model_class)});
  return *family;
}

bool is_deepseek(const Config& config) { return config.architecture.starts_with("deepseek"); }

/// compressed-tensors with whole numbers of 8 bits and a scale for each row; activations stay as they are.
/// Which modules are left out shows in the tensors' types.
void check_int8(const Fields& quantisation) {
  quantisation.only("format", "int-quantized");
  quantisation.only("quantization_status", "compressed");
  quantisation.only("kv_cache_scheme", nullptr);
  const auto groups = quantisation.object("config_groups");
  const auto group = groups ? groups->object("group_0") : std::nullopt;
  const auto weights = group ? group->object("weights") : std::nullopt;
  if (!weights || groups->size() != 1 || !quantisation.find("format"))
    quantisation.fail("config_groups", "is not one group_0 with weights",
                      "use a checkpoint of `convoy quantize`, or in bf16");
  for (const char* activations : {"input_activations", "output_activations"})
    group->only(activations, nullptr);
  weights->only("num_bits", 8);
  weights->only("type", "int");
  weights->only("symmetric", true);
  weights->only("strategy", "channel");
  weights->only("dynamic", false);
  weights->only("actorder", nullptr);
}

/// DeepSeek V3's own: bytes of e4m3 with a scale for each block of 128×128. Activations are not rounded here,
/// so what `activation_scheme` and `scale_fmt` say of them changes nothing that is stored.
void check_quantisation(const Fields& fields) {
  if (fields.find("compression_config"))
    fields.fail("compression_config", "is set: such weights are not read", "use the GGUF instead");
  const auto quantisation = fields.object("quantization_config");
  if (!quantisation) return;
  if (quantisation->text("quant_method") == "compressed-tensors") return check_int8(*quantisation);
  quantisation->only("quant_method", "fp8");
  quantisation->only("fmt", "e4m3");
  quantisation->only("activation_scheme", "dynamic");
  quantisation->only("weight_block_size", json::array{fp8_block, fp8_block});
  if (!quantisation->find("quant_method") || !quantisation->find("weight_block_size"))
    fields.fail("quantization_config", "names no method with blocks of 128 by 128",
                "use a checkpoint in bf16, in DeepSeek's FP8, or the GGUF");
}

/// Fields that change the result and that we compute in one way only.
void refuse_unsupported(const Fields& fields, const Family& family) {
  fields.only("hidden_act", "silu");
  fields.only("partial_rotary_factor", 1);
  fields.only("rope_interleaved", false);
  fields.only("is_encoder_decoder", false);
  fields.only("add_cross_attention", false);
  fields.only("use_sliding_window", false);
  check_quantisation(fields);
  // Multipliers of relatives that carry llama's name.
  for (const char* name :
       {"attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling"})
    fields.only(name, 1);
  if (family.attention_bias == AttentionBias::refused)
    for (const char* name : {"attention_bias", "mlp_bias"}) fields.only(name, false);
  if (const json::value* kinds = fields.find("layer_types")) {
    const json::array* list = kinds->if_array();
    if (!list ||
        !std::ranges::all_of(*list, [](const json::value& kind) { return kind == "full_attention"; }))
      fields.fail("layer_types", "names other layers than full_attention", "use a checkpoint without them");
  }
}

/// Mistral's attention reaches back over a window, which changes nothing where the context fits it. The
/// reference takes a window that is absent for one of 4096 tokens.
void check_window(const Fields& fields, const Config& config) {
  constexpr int64_t absent = 4096;
  if (fields.says_null("sliding_window")) return;
  const int64_t window = fields.integer("sliding_window").value_or(absent);
  if (window < config.context)
    fields.fail("sliding_window",
                "is " + std::to_string(window) + ", less than the " + std::to_string(config.context) +
                    " positions of max_position_embeddings: attention over a window is not supported",
                "use a checkpoint where it is null, such as Mistral's from version 0.2 on");
}

/// `attn_factor` is what DeepSeek's R1-0528-Qwen3-8B gives, so that cos and sin keep their size. vLLM and
/// llama.cpp multiply by it, as is meant; transformers (5.24) does not know it.
YarnRope read_yarn(const Fields& scaling, const Config& config) {
  scaling.only("truncate", true);
  scaling.only("attention_factor", nullptr);
  YarnRope yarn{.factor = scaling.need_number("factor"),
                .beta_fast = scaling.number("beta_fast").value_or(32),
                .beta_slow = scaling.number("beta_slow").value_or(1),
                .mscale = 1,
                .mscale_all_dim = 0,
                .original_context = scaling.need_integer("original_max_position_embeddings")};
  if (is_deepseek(config)) {
    scaling.only("attn_factor", 1);
    yarn.mscale = scaling.need_number("mscale");
    yarn.mscale_all_dim = scaling.need_number("mscale_all_dim");
  } else {
    scaling.only("mscale", nullptr);
    scaling.only("mscale_all_dim", nullptr);
    yarn.attn_factor = scaling.number("attn_factor").value_or(1);
  }
  return yarn;
}

/// The scaling under either of its names, and the base that may stand in it or beside it.
void read_rope(const Fields& fields, const Config& config, Rope& rope) {
  const auto old_spelling = fields.object("rope_scaling");
  const auto new_spelling = fields.object("rope_parameters");
  if (old_spelling && new_spelling && *fields.find("rope_scaling") != *fields.find("rope_parameters"))
    fields.fail("rope_parameters", "differs from rope_scaling", "keep one of the two");
  std::optional<double> theta = fields.number("rope_theta");
  const auto& scaling = new_spelling ? new_spelling : old_spelling;
  if (scaling) {
    if (const auto inner = scaling->number("rope_theta")) {
      if (theta && theta != inner)
        scaling->fail("rope_theta", "differs from rope_theta beside it", "keep one of the two");
      theta = inner;
    }
    scaling->only("partial_rotary_factor", 1);
    const auto type = scaling->text("rope_type");
    const auto old_type = scaling->text("type");  // the key's name before rope_type
    if (type && old_type && type != old_type)
      scaling->fail("type", "differs from rope_type", "keep one of the two");
    const std::string kind = type ? *type : old_type.value_or("");
    if (kind == "llama3") {
      rope.llama3 = {scaling->need_number("factor"), scaling->need_number("low_freq_factor"),
                     scaling->need_number("high_freq_factor"),
                     scaling->need_integer("original_max_position_embeddings")};
    } else if (kind == "yarn") {
      rope.yarn = read_yarn(*scaling, config);
    } else if (kind != "default") {
      scaling->fail("rope_type",
                    kind.empty() ? "is missing" : "the rotary scaling " + in_quotes(kind) + " is not known",
                    "Convoy knows default, llama3 and yarn");
    }
  }
  if (theta) rope.theta = *theta;
}

LatentAttention read_latent(const Fields& fields) {
  LatentAttention latent;
  latent.q_rank = fields.integer("q_lora_rank").value_or(0);
  latent.latent = fields.need_integer("kv_lora_rank");
  latent.nope = fields.need_integer("qk_nope_head_dim");
  latent.rope = fields.need_integer("qk_rope_head_dim");
  latent.value = fields.need_integer("v_head_dim");
  return latent;
}

/// DeepSeek's routing in its variants: V2-Lite takes the best, V2 the best of the best groups, V3 by sigmoid
/// with a correction bias (topk_method noaux_tc).
Routing read_routing(const Fields& fields, const Config& config) {
  Routing routing;
  routing.experts = fields.need_integer("n_routed_experts");
  routing.chosen = fields.need_integer("num_experts_per_tok");
  routing.normalised = fields.truth("norm_topk_prob");
  routing.scale = fields.number("routed_scaling_factor").value_or(1);
  const bool v3 = config.architecture == "deepseek_v3";
  const std::string method = fields.text("topk_method").value_or(v3 ? "noaux_tc" : "greedy");
  const std::string scoring = fields.text("scoring_func").value_or(v3 ? "sigmoid" : "softmax");
  if (v3 ? method != "noaux_tc" : method != "greedy" && method != "group_limited_greedy")
    fields.fail("topk_method",
                "is " + in_quotes(method) + ", which " + config.architecture + " does not have",
                v3 ? "Convoy knows noaux_tc" : "Convoy knows greedy and group_limited_greedy");
  if (scoring != (v3 ? "sigmoid" : "softmax"))
    fields.fail("scoring_func",
                "is " + in_quotes(scoring) + ", which " + config.architecture + " does not have",
                v3 ? "Convoy knows sigmoid" : "Convoy knows softmax");
  if (v3) {
    routing.scoring = Scoring::sigmoid;
    routing.group_score = GroupScore::best_two;
    routing.biased = true;
  } else if (routing.normalised && routing.scale != 1) {
    fields.fail("norm_topk_prob",
                "is true with a routed_scaling_factor, which published codes compute differently",
                "use a checkpoint with one of the two");
  }
  if (method != "greedy") {
    routing.groups = fields.need_integer("n_group");
    routing.groups_chosen = fields.need_integer("topk_group");
  }
  return routing;
}

void read_deepseek(const Fields& fields, Config& config) {
  fields.only("moe_layer_freq", 1);
  config.latent = read_latent(fields);
  config.head_dim = config.latent->rope;
  Experts& moe = config.moe.emplace();
  moe.routing = read_routing(fields, config);
  moe.width = fields.need_integer("moe_intermediate_size");
  moe.shared = fields.need_integer("n_shared_experts");
  moe.dense_layers = fields.integer("first_k_dense_replace").value_or(0);
  config.prediction_layers = fields.integer("num_nextn_predict_layers").value_or(0);
  const json::value* interleaved = fields.find("rope_interleave");
  config.rope.pairs =
      !interleaved || fields.truth("rope_interleave") ? RopePairs::interleaved : RopePairs::half_split;
}

/// The best experts of all by softmax, none that every token goes to.
void read_qwen3_moe(const Fields& fields, Config& config) {
  Experts& moe = config.moe.emplace();
  // The newer releases of the reference write the other name.
  const auto experts = fields.integer("num_experts");
  moe.routing.experts = experts ? *experts : fields.need_integer("num_local_experts");
  moe.routing.chosen = fields.need_integer("num_experts_per_tok");
  moe.routing.normalised = fields.truth("norm_topk_prob");
  moe.width = fields.need_integer("moe_intermediate_size");
  moe.step = fields.integer("decoder_sparse_step").value_or(1);
  const json::value* dense = fields.find("mlp_only_layers");
  if (!dense) return;
  const json::array* list = dense->if_array();
  if (!list || !std::ranges::all_of(*list, [](const json::value& layer) { return layer.is_int64(); }))
    fields.wrong_type("mlp_only_layers", "a list of layers' numbers");
  for (const json::value& layer : *list) moe.dense.push_back(layer.get_int64());
}

int32_t read_token(const json::value& value, const Fields& fields, std::string_view name) {
  if (!value.is_int64() || value.get_int64() < 0 || value.get_int64() > INT32_MAX)
    fields.wrong_type(name, "a token's id or a list of them");
  return static_cast<int32_t>(value.get_int64());
}

void add_end_tokens(const Fields& fields, std::vector<int32_t>& end_tokens) {
  const json::value* value = fields.find("eos_token_id");
  if (!value) return;
  const auto add = [&](int32_t id) {
    if (std::ranges::find(end_tokens, id) == end_tokens.end()) end_tokens.push_back(id);
  };
  if (const json::array* list = value->if_array()) {
    for (const json::value& id : *list) add(read_token(id, fields, "eos_token_id"));
  } else {
    add(read_token(*value, fields, "eos_token_id"));
  }
}

json::object parse_object(std::string_view text, const std::string& where) {
  json::value value = parse_json(text, where);
  if (!value.is_object()) throw InputError("is not a JSON object", where, "fetch it again");
  return std::move(value.get_object());
}

}  // namespace

Config parse_config_json(std::string_view text, std::string_view generation, const std::string& where) {
  const json::object object = parse_object(text, where);
  const Fields fields(object, where);
  const Family& family = read_family(fields);
  refuse_unsupported(fields, family);
  Config config;
  config.architecture = family.name;
  config.layers = fields.need_integer("num_hidden_layers");
  config.hidden = fields.need_integer("hidden_size");
  config.intermediate = fields.need_integer("intermediate_size");
  config.vocab = fields.need_integer("vocab_size");
  config.heads = fields.need_integer("num_attention_heads");
  config.kv_heads = fields.integer("num_key_value_heads").value_or(config.heads);
  config.context = fields.need_integer("max_position_embeddings");
  if (family.window) check_window(fields, config);
  config.rms_eps = fields.need_number("rms_norm_eps");
  config.tied_head = fields.truth("tie_word_embeddings");
  config.o_bias = family.attention_bias == AttentionBias::optional && fields.truth("attention_bias");
  config.mlp_bias = family.attention_bias == AttentionBias::optional && fields.truth("mlp_bias");
  config.qkv_bias = config.o_bias || family.attention_bias == AttentionBias::qkv;
  config.qk_norm = family.qk_norm;
  if (config.architecture == "qwen3_moe") read_qwen3_moe(fields, config);
  if (is_deepseek(config)) {
    read_deepseek(fields, config);
  } else if (const auto head_dim = fields.integer("head_dim")) {
    config.head_dim = *head_dim;
  } else {
    if (config.heads < 1 || config.hidden % config.heads != 0)
      fields.fail("hidden_size",
                  std::to_string(config.hidden) + " is not a multiple of num_attention_heads " +
                      std::to_string(config.heads),
                  "give head_dim");
    config.head_dim = config.hidden / config.heads;
  }
  read_rope(fields, config, config.rope);
  add_end_tokens(fields, config.end_tokens);
  if (const json::value* bos = fields.find("bos_token_id"))
    config.bos_token = read_token(*bos, fields, "bos_token_id");
  if (!generation.empty()) {
    const std::string beside = where + " (generation_config.json beside it)";
    const json::object more = parse_object(generation, beside);
    add_end_tokens(Fields(more, beside), config.end_tokens);
  }
  check_config(config, where);
  return config;
}

}  // namespace convoy::model
