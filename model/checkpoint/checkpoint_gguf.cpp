#include <algorithm>
#include <cmath>

#include "model/checkpoint/checkpoint_parts.hpp"
#include "model/checkpoint/gguf_fields.hpp"
#include "model/checkpoint/weight_names.hpp"
#include "model/error.hpp"
#include "model/families.hpp"
#include "model/format/gguf_parts.hpp"
#include "model/json.hpp"
#include "model/tokenizer/end_names.hpp"

namespace convoy::model {

namespace {

/// Every key of the architecture's own that we understand, or that changes nothing. Any other is refused.
constexpr std::string_view known_keys[] = {"block_count",
                                           "context_length",
                                           "embedding_length",
                                           "feed_forward_length",
                                           "attention.head_count",
                                           "attention.head_count_kv",
                                           "attention.key_length",
                                           "attention.value_length",
                                           "attention.layer_norm_rms_epsilon",
                                           "attention.sliding_window",
                                           "vocab_size",
                                           "rope.freq_base",
                                           "rope.dimension_count",
                                           "rope.scaling.type",
                                           "rope.scaling.factor",
                                           "rope.scale_linear",
                                           "rope.scaling.original_context_length",
                                           "rope.scaling.finetuned",
                                           "rope.scaling.attn_factor",
                                           "rope.scaling.yarn_ext_factor",
                                           "rope.scaling.yarn_attn_factor",
                                           "rope.scaling.yarn_beta_fast",
                                           "rope.scaling.yarn_beta_slow",
                                           "expert_count",
                                           "expert_used_count",
                                           "attention.causal",
                                           "use_parallel_residual",
                                           "tensor_data_layout"};

/// What architectures with experts have beside those.
constexpr std::string_view known_deepseek_keys[] = {
    "attention.q_lora_rank",     "attention.kv_lora_rank",
    "attention.key_length_mla",  "attention.value_length_mla",
    "leading_dense_block_count", "expert_feed_forward_length",
    "expert_shared_count",       "expert_weights_scale",
    "expert_weights_norm",       "expert_gating_func",
    "expert_group_count",        "expert_group_used_count",
    "nextn_predict_layers",      "rope.scaling.yarn_log_multiplier"};

constexpr std::string_view known_qwen3_moe_keys[] = {"expert_feed_forward_length", "expert_weights_norm",
                                                     "expert_gating_func"};

constexpr std::string_view qwen3_moe = "qwen3moe";
constexpr std::string_view deepseek = "deepseek2";  // DeepSeek V2 and V3, in their format's numbering
const char* const plain = "use a file without it";

std::span<const std::string_view> own_keys(std::string_view architecture) {
  if (architecture == deepseek) return known_deepseek_keys;
  if (architecture == qwen3_moe) return known_qwen3_moe_keys;
  return {};
}

void refuse_unknown(const Metadata& metadata, const GgufMetadata& values, const std::string& prefix,
                    std::span<const std::string_view> own) {
  for (const auto& [key, value] : values) {
    if (!key.starts_with(prefix)) continue;
    const auto name = std::string_view(key).substr(prefix.size());
    if (std::ranges::find(known_keys, name) != std::end(known_keys)) continue;
    if (std::ranges::find(own, name) != own.end()) continue;
    metadata.fail(in_quotes(key), "is not understood, and may change the result", plain);
  }
}

/// Keys that have to have the value with which they change nothing.
void refuse_unsupported(const Metadata& metadata, const std::string& prefix, std::string_view architecture) {
  if (architecture != deepseek && architecture != qwen3_moe)
    for (const char* name : {"expert_count", "expert_used_count"})
      if (metadata.integer(prefix + name).value_or(0) != 0)
        metadata.fail(prefix + name, "is set: mixtures of experts are not supported", plain);
  const auto scaling = metadata.text(prefix + "rope.scaling.type");
  if (scaling != "yarn") {
    for (const char* name : {"rope.scaling.factor", "rope.scale_linear", "rope.scaling.attn_factor"})
      if (metadata.number(prefix + name).value_or(1) != 1)
        metadata.fail(prefix + name, "scales the rotary positions, which is not supported", plain);
    if (scaling && scaling != "none" && scaling != "linear")  // linear by 1, as just checked, is none
      metadata.fail(prefix + "rope.scaling.type", "is " + in_quotes(*scaling) + ", which is not supported",
                    plain);
  }
  if (metadata.find(prefix + "attention.causal") && !metadata.truth(prefix + "attention.causal"))
    metadata.fail(prefix + "attention.causal", "is not true", plain);
  if (const auto layout = metadata.text(prefix + "tensor_data_layout");
      layout && layout != "Meta AI original pth")
    metadata.fail(prefix + "tensor_data_layout", "is " + in_quotes(*layout) + ", which is not supported",
                  plain);
}

int32_t token(const Metadata& metadata, const std::string& key, int32_t absent) {
  const auto id = metadata.integer(key);
  if (!id) return absent;
  if (*id < 0 || *id > INT32_MAX)
    metadata.fail(key, "is " + std::to_string(*id), "a token's id is a small number");
  return static_cast<int32_t>(*id);
}

/// Whether a token is more than a piece of text, by GGUF's number for its kind. Converters write control
/// tokens as user-defined where the tokenizer did not call them special.
bool is_added(const GgufValue& kind) {
  constexpr uint64_t control = 3, user_defined = 4;
  const auto is = [&](auto value) { return kind == GgufValue{value}; };
  return is(control) || is(user_defined) || is(int64_t{control}) || is(int64_t{user_defined});
}

/// The tokens under every key that ends a text or a turn, and the added tokens known by their text: files
/// name one of them and leave the others to the reader.
std::vector<int32_t> read_end_tokens(const Metadata& metadata, int64_t vocab) {
  std::vector<int32_t> ends;
  const auto add = [&](int32_t id) {
    if (id >= 0 && std::ranges::find(ends, id) == ends.end()) ends.push_back(id);
  };
  for (const char* name : {"eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep"})
    add(token(metadata, "tokenizer.ggml." + std::string(name) + "_token_id", -1));
  const auto array = [&](const char* key) {
    const GgufValue* value = metadata.find(key);
    const auto* array = value ? std::get_if<GgufArray>(&value->value) : nullptr;
    return array ? *array : GgufArray();
  };
  const GgufArray texts = array("tokenizer.ggml.tokens"), types = array("tokenizer.ggml.token_type");
  const size_t count = std::min({texts.size(), types.size(), static_cast<size_t>(vocab)});
  auto text = texts.begin();
  auto type = types.begin();
  for (size_t id = 0; id < count; ++id, ++text, ++type) {
    if (!is_added(*type)) continue;
    const GgufValue token = *text;
    const auto* name = std::get_if<std::string>(&token.value);
    if (name && names_an_end(*name)) add(static_cast<int32_t>(id));
  }
  return ends;
}

/// Llama 3's scaling comes as one divisor per frequency, in a small tensor: [head_dim / 2].
std::vector<float> read_divisors(const TensorMap& tensors, int64_t head_dim, const std::string& file) {
  const auto found = tensors.find("rope_freqs.weight");
  if (found == tensors.end()) return {};
  const Tensor& tensor = found->second;
  if (tensor.type != DType::f32 || tensor.shape != std::vector<int64_t>{head_dim / 2})
    throw InputError("is not " + std::to_string(head_dim / 2) + " values of F32",
                     file + ": tensor rope_freqs.weight", "convert the file anew");
  std::vector<float> divisors(static_cast<size_t>(head_dim / 2));
  dequantize_row(tensor, 0, divisors);
  return divisors;
}

int64_t read_head_dim(const Metadata& metadata, const std::string& prefix, const Config& config) {
  int64_t head_dim;
  if (const auto key_length = metadata.integer(prefix + "attention.key_length")) {
    head_dim = *key_length;
  } else {
    if (config.heads < 1 || config.hidden % config.heads != 0)
      metadata.fail(prefix + "embedding_length", "is not a multiple of attention.head_count",
                    "give attention.key_length");
    head_dim = config.hidden / config.heads;
  }
  if (metadata.integer(prefix + "attention.value_length").value_or(head_dim) != head_dim)
    metadata.fail(prefix + "attention.value_length", "differs from the keys' length",
                  "use another checkpoint");
  if (metadata.integer(prefix + "rope.dimension_count").value_or(head_dim) != head_dim)
    metadata.fail(prefix + "rope.dimension_count", "is not the whole head", "use another checkpoint");
  return head_dim;
}

/// The sizes of a head stand under key_length and value_length; in files whose attn_kv_b is split, those are
/// what attention over the latent has, and the heads' own stand under key_length_mla and value_length_mla.
LatentAttention read_latent(const Metadata& metadata, const std::string& prefix) {
  LatentAttention latent;
  const std::string attention = prefix + "attention.", key = attention + "key_length",
                    value = attention + "value_length";
  latent.q_rank = metadata.integer(attention + "q_lora_rank").value_or(0);
  latent.latent = metadata.need_integer(attention + "kv_lora_rank");
  latent.rope = metadata.need_integer(prefix + "rope.dimension_count");
  const auto own_key = metadata.integer(key + "_mla"), own_value = metadata.integer(value + "_mla");
  if (own_key && metadata.need_integer(key) - latent.latent != latent.rope)
    metadata.fail(key, "is not the latent's size and the rotated part's together", "convert the file anew");
  if (own_key && metadata.need_integer(value) != latent.latent)
    metadata.fail(value, "is not the latent's size", "convert the file anew");
  if (own_key.has_value() != own_value.has_value())
    metadata.fail(key + "_mla", "and value_length_mla are not both there", "convert the file anew");
  const int64_t query = own_key ? *own_key : metadata.need_integer(key);
  if (query <= latent.rope)
    metadata.fail(own_key ? key + "_mla" : key, "leaves nothing beside the rotated part",
                  "convert the file anew");
  latent.nope = query - latent.rope;
  latent.value = own_value ? *own_value : metadata.need_integer(value);
  return latent;
}

/// DeepSeek V2 scores by softmax and takes its groups by their best expert, V3 by sigmoid and the best two.
Routing read_routing(const Metadata& metadata, const std::string& prefix, bool biased) {
  constexpr int64_t softmax = 1, sigmoid = 2;   // the format's numbers
  constexpr int64_t experts_with_groups = 160;  // of the smallest published model that has groups
  Routing routing;
  routing.experts = metadata.need_integer(prefix + "expert_count");
  routing.chosen = metadata.need_integer(prefix + "expert_used_count");
  routing.scale = metadata.number(prefix + "expert_weights_scale").value_or(1);
  routing.normalised = metadata.truth(prefix + "expert_weights_norm");
  routing.biased = biased;
  const std::string gating_key = prefix + "expert_gating_func";
  const int64_t gating = metadata.integer(gating_key).value_or(softmax);
  if (gating != softmax && gating != sigmoid)
    metadata.fail(gating_key, "is " + std::to_string(gating) + ", which is not supported",
                  "Convoy knows softmax (1) and sigmoid (2)");
  if (gating == sigmoid) {
    routing.scoring = Scoring::sigmoid;
    routing.group_score = GroupScore::best_two;
  } else if (biased) {
    metadata.fail(gating_key, "is softmax or missing, but there is a correction bias (exp_probs_b)",
                  "convert the file anew");
  } else if (routing.normalised && routing.scale != 1) {
    metadata.fail(prefix + "expert_weights_norm",
                  "is true with an expert_weights_scale, which published codes compute differently",
                  "use a checkpoint with one of the two");
  }
  const std::string groups_key = prefix + "expert_group_count";
  const auto groups = metadata.integer(groups_key);
  if (!groups && routing.experts >= experts_with_groups)
    metadata.fail(groups_key,
                  "is missing: an old converter left it out, and " + std::to_string(routing.experts) +
                      " experts may be in groups",
                  "convert the checkpoint anew, or use its safetensors");
  routing.groups = groups.value_or(1);
  routing.groups_chosen = metadata.integer(prefix + "expert_group_used_count").value_or(1);
  if (routing.groups > 1) metadata.need_integer(prefix + "expert_group_used_count");
  return routing;
}

/// The format says of the weights of chosen experts only that they are there: its readers divide them by
/// their sum.
void read_qwen3_moe(const Metadata& metadata, const std::string& prefix, Config& config) {
  constexpr int64_t softmax = 1;
  const std::string norm = prefix + "expert_weights_norm", gating = prefix + "expert_gating_func";
  if (metadata.find(norm) && !metadata.truth(norm))
    metadata.fail(norm, "is false, which readers of the format don't heed", plain);
  if (metadata.integer(gating).value_or(softmax) != softmax)
    metadata.fail(gating, "is not softmax (1), which is not supported", plain);
  Experts& moe = config.moe.emplace();
  moe.routing.experts = metadata.need_integer(prefix + "expert_count");
  moe.routing.chosen = metadata.need_integer(prefix + "expert_used_count");
  moe.routing.normalised = true;
  moe.width = metadata.need_integer(prefix + "expert_feed_forward_length");
}

/// Other than the paper has it DeepSeek's V2 and V3 have a multiplier, which is 0.1·mscale_all_dim. The
/// format has no place for mscale: it is the same in all published checkpoints, so that cos and sin keep
/// their magnitude.
void read_yarn(const Metadata& metadata, const std::string& prefix, bool is_deepseek, Rope& rope) {
  const std::string scaling = prefix + "rope.scaling.";
  if (metadata.text(scaling + "type") != "yarn") return;
  const auto only_1 = [&](const char* name) {
    if (metadata.number(scaling + name).value_or(1) != 1)
      metadata.fail(scaling + name, "is not 1, which is not supported", plain);
  };
  only_1("yarn_ext_factor");
  YarnRope yarn{.factor = metadata.need_number(scaling + "factor"),
                .beta_fast = metadata.number(scaling + "yarn_beta_fast").value_or(32),
                .beta_slow = metadata.number(scaling + "yarn_beta_slow").value_or(1),
                .mscale = 1,
                .mscale_all_dim = 0,
                .original_context = metadata.need_integer(scaling + "original_context_length")};
  if (is_deepseek) {
    only_1("yarn_attn_factor"), only_1("attn_factor");
    yarn.mscale = yarn.mscale_all_dim = metadata.need_number(scaling + "yarn_log_multiplier") / 0.1;
  } else {  // one factor under an older and a newer name
    yarn.attn_factor = metadata.number(scaling + "attn_factor").value_or(1) *
                       metadata.number(scaling + "yarn_attn_factor").value_or(1);
  }
  rope.yarn = yarn;
}

void read_deepseek(const Metadata& metadata, const std::string& prefix, const TensorMap& tensors,
                   Config& config) {
  if (metadata.integer(prefix + "nextn_predict_layers").value_or(0) != 0)
    metadata.fail(prefix + "nextn_predict_layers", "is set: such layers are not run", plain);
  config.latent = read_latent(metadata, prefix);
  config.head_dim = config.latent->rope;
  if (config.kv_heads != 1 && config.kv_heads != config.heads)
    metadata.fail(prefix + "attention.head_count_kv", "is neither 1 nor the number of heads",
                  "convert the file anew");
  config.kv_heads = config.heads;  // 1 of latents, which stand for as many
  Experts& moe = config.moe.emplace();
  const bool biased = std::ranges::any_of(
      tensors, [](const auto& entry) { return entry.first.ends_with(".exp_probs_b.bias"); });
  moe.routing = read_routing(metadata, prefix, biased);
  moe.width = metadata.need_integer(prefix + "expert_feed_forward_length");
  moe.shared = metadata.need_integer(prefix + "expert_shared_count");
  moe.dense_layers = metadata.integer(prefix + "leading_dense_block_count").value_or(0);
}

Config read_config(const GgufModel& gguf) {
  const std::string file = gguf.files.front()->path().string();
  const Metadata metadata(gguf.metadata, file);
  const std::string architecture = metadata.text("general.architecture").value_or("");
  const Family* const family = find_gguf_family(architecture);
  if (!family)
    metadata.fail("general.architecture", "the architecture " + in_quotes(architecture) + " is not known",
                  "Convoy runs " + gguf_family_names());
  const bool is_deepseek = architecture == deepseek;
  const std::string prefix = architecture + ".";
  refuse_unknown(metadata, gguf.metadata, prefix, own_keys(architecture));
  refuse_unsupported(metadata, prefix, architecture);
  Config config;
  config.architecture = family->name;
  config.layers = metadata.need_integer(prefix + "block_count");
  config.hidden = metadata.need_integer(prefix + "embedding_length");
  config.intermediate = metadata.need_integer(prefix + "feed_forward_length");
  config.context = metadata.need_integer(prefix + "context_length");
  if (const std::string key = prefix + "attention.sliding_window";
      metadata.integer(key).value_or(config.context) < config.context)
    metadata.fail(key, "is less than context_length: attention over a window is not supported",
                  "use a checkpoint without a window");
  config.heads = metadata.need_integer(prefix + "attention.head_count");
  config.kv_heads = metadata.integer(prefix + "attention.head_count_kv").value_or(config.heads);
  config.rms_eps = metadata.need_number(prefix + "attention.layer_norm_rms_epsilon");
  config.rope.theta = metadata.number(prefix + "rope.freq_base").value_or(config.rope.theta);
  const bool optional_bias = family->attention_bias == AttentionBias::optional;
  const auto has = [&](const WeightName& name) {
    return gguf.tensors.contains("blk.0." + name.in(Naming::gguf));
  };
  config.qkv_bias = family->attention_bias == AttentionBias::qkv || (optional_bias && has(names::q_bias));
  config.o_bias = optional_bias && has(names::o_bias);
  config.mlp_bias = optional_bias && has(names::gate_bias);
  config.qk_norm = family->qk_norm;
  config.rope.pairs = family->gguf_pairs;
  config.tied_head = !gguf.tensors.contains("output.weight");

  const auto embedding = gguf.tensors.find("token_embd.weight");
  const int64_t rows = embedding == gguf.tensors.end() ? 0 : embedding->second.rows();
  config.vocab = metadata.integer(prefix + "vocab_size").value_or(rows);

  read_yarn(metadata, prefix, is_deepseek, config.rope);
  if (architecture == qwen3_moe) read_qwen3_moe(metadata, prefix, config);
  if (is_deepseek)
    read_deepseek(metadata, prefix, gguf.tensors, config);
  else
    config.head_dim = read_head_dim(metadata, prefix, config);

  config.end_tokens = read_end_tokens(metadata, config.vocab);
  config.bos_token = token(metadata, "tokenizer.ggml.bos_token_id", -1);
  if (is_deepseek)  // one architecture for two families
    config.architecture = config.moe->routing.scoring == Scoring::sigmoid ? "deepseek_v3" : "deepseek_v2";
  check_config(config, file);
  config.rope.frequency_divisors = read_divisors(gguf.tensors, config.head_dim, file);
  check_config(config, file);  // the divisors' values too
  return config;
}

}  // namespace

CheckpointParts read_gguf(std::shared_ptr<const Mapping> file, const OpenFile& open) {
  GgufModel gguf = read_gguf_model(std::move(file), open);
  CheckpointParts parts;
  parts.path = gguf.files.front()->path();
  parts.naming = Naming::gguf;
  parts.config = read_config(gguf);
  parts.tensors = std::move(gguf.tensors);
  parts.metadata = std::move(gguf.metadata);
  for (const auto& part : gguf.files) parts.files.emplace_back(part->path().filename().string(), part);
  return parts;
}

}  // namespace convoy::model
