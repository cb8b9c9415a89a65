#include <algorithm>
#include <cmath>

#include "model/checkpoint_parts.hpp"
#include "model/error.hpp"
#include "model/json.hpp"

namespace convoy::model {

namespace {

/// Typed metadata. Writers differ in the width and sign of integers, so any integer type is one here.
class Metadata {
 public:
  Metadata(const GgufMetadata& values, std::string file) : values_(values), file_(std::move(file)) {}

  const GgufValue* find(std::string_view key) const {
    const auto found = values_.find(key);
    return found == values_.end() ? nullptr : &found->second;
  }
  [[noreturn]] void fail(std::string_view key, const std::string& problem, std::string mend) const {
    throw InputError(problem, file_ + ": metadata " + std::string(key), std::move(mend));
  }

  std::optional<int64_t> integer(std::string_view key) const {
    const GgufValue* value = find(key);
    if (!value) return std::nullopt;
    if (const auto* number = std::get_if<int64_t>(&value->value)) return *number;
    const auto* number = std::get_if<uint64_t>(&value->value);
    if (!number || *number > static_cast<uint64_t>(INT64_MAX))
      fail(key, "is not a whole number", "convert the file anew");
    return static_cast<int64_t>(*number);
  }
  std::optional<double> number(std::string_view key) const {
    const GgufValue* value = find(key);
    if (!value) return std::nullopt;
    if (const auto* number = std::get_if<double>(&value->value)) return *number;
    return static_cast<double>(*integer(key));
  }
  std::optional<std::string> text(std::string_view key) const {
    const GgufValue* value = find(key);
    if (!value) return std::nullopt;
    const auto* text = std::get_if<std::string>(&value->value);
    if (!text) fail(key, "is not a string", "convert the file anew");
    return *text;
  }
  int64_t need_integer(std::string_view key) const { return need(integer(key), key); }
  double need_number(std::string_view key) const { return need(number(key), key); }

 private:
  template <class T>
  T need(std::optional<T> value, std::string_view key) const {
    if (!value) fail(key, "is missing", "convert the file anew");
    return *value;
  }

  const GgufMetadata& values_;
  std::string file_;
};

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
                                           "vocab_size",
                                           "rope.freq_base",
                                           "rope.dimension_count",
                                           "rope.scaling.type",
                                           "rope.scaling.factor",
                                           "rope.scale_linear",
                                           "rope.scaling.original_context_length",
                                           "rope.scaling.finetuned",
                                           "expert_count",
                                           "expert_used_count",
                                           "attention.causal",
                                           "use_parallel_residual",
                                           "tensor_data_layout"};

/// Keys that have to have the value with which they change nothing.
void refuse_unsupported(const Metadata& metadata, const GgufMetadata& values, const std::string& prefix) {
  for (const auto& [key, value] : values) {
    if (!key.starts_with(prefix)) continue;
    if (std::ranges::find(known_keys, std::string_view(key).substr(prefix.size())) == std::end(known_keys))
      metadata.fail(in_quotes(key), "is not understood, and may change the result", "use a file without it");
  }
  const std::string plain = "use a file without it";
  for (const char* name : {"expert_count", "expert_used_count"})
    if (metadata.integer(prefix + name).value_or(0) != 0)
      metadata.fail(prefix + name, "is set: mixtures of experts are not supported", plain);
  for (const char* name : {"rope.scaling.factor", "rope.scale_linear"})
    if (metadata.number(prefix + name).value_or(1) != 1)
      metadata.fail(prefix + name, "scales the rotary positions, which is not supported", plain);
  const auto scaling = metadata.text(prefix + "rope.scaling.type");
  if (scaling && scaling != "none" && scaling != "linear")  // linear by 1, as just checked, is none
    metadata.fail(prefix + "rope.scaling.type", "is " + in_quotes(*scaling) + ", which is not supported",
                  plain);
  if (const GgufValue* causal = metadata.find(prefix + "attention.causal")) {
    const bool* truth = std::get_if<bool>(&causal->value);
    if (!truth || !*truth) metadata.fail(prefix + "attention.causal", "is not true", plain);
  }
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

Config read_config(const GgufFile& gguf) {
  const std::string file = gguf.file->path().string();
  const Metadata metadata(gguf.metadata, file);
  Config config;
  config.architecture = metadata.text("general.architecture").value_or("");
  if (config.architecture != "llama" && config.architecture != "qwen2")
    metadata.fail("general.architecture",
                  "the architecture " + in_quotes(config.architecture) + " is not known",
                  "Convoy runs llama and qwen2");
  const std::string prefix = config.architecture + ".";
  refuse_unsupported(metadata, gguf.metadata, prefix);
  config.layers = metadata.need_integer(prefix + "block_count");
  config.hidden = metadata.need_integer(prefix + "embedding_length");
  config.intermediate = metadata.need_integer(prefix + "feed_forward_length");
  config.context = metadata.need_integer(prefix + "context_length");
  config.heads = metadata.need_integer(prefix + "attention.head_count");
  config.kv_heads = metadata.integer(prefix + "attention.head_count_kv").value_or(config.heads);
  config.rms_eps = metadata.need_number(prefix + "attention.layer_norm_rms_epsilon");
  config.rope.theta = metadata.number(prefix + "rope.freq_base").value_or(config.rope.theta);
  config.qkv_bias = config.architecture == "qwen2";
  config.rope.pairs = config.architecture == "llama" ? RopePairs::interleaved : RopePairs::half_split;
  config.tied_head = !gguf.tensors.contains("output.weight");

  const auto embedding = gguf.tensors.find("token_embd.weight");
  const int64_t rows = embedding == gguf.tensors.end() ? 0 : embedding->second.rows();
  config.vocab = metadata.integer(prefix + "vocab_size").value_or(rows);

  if (const auto key_length = metadata.integer(prefix + "attention.key_length")) {
    config.head_dim = *key_length;
  } else {
    if (config.heads < 1 || config.hidden % config.heads != 0)
      metadata.fail(prefix + "embedding_length", "is not a multiple of attention.head_count",
                    "give attention.key_length");
    config.head_dim = config.hidden / config.heads;
  }
  if (metadata.integer(prefix + "attention.value_length").value_or(config.head_dim) != config.head_dim)
    metadata.fail(prefix + "attention.value_length", "differs from the keys' length",
                  "use another checkpoint");
  if (metadata.integer(prefix + "rope.dimension_count").value_or(config.head_dim) != config.head_dim)
    metadata.fail(prefix + "rope.dimension_count", "is not the whole head", "use another checkpoint");

  for (const char* name : {"eos", "eot", "eom"}) {
    const int32_t id = token(metadata, std::string("tokenizer.ggml.") + name + "_token_id", -1);
    if (id >= 0 && std::ranges::find(config.end_tokens, id) == config.end_tokens.end())
      config.end_tokens.push_back(id);
  }
  config.bos_token = token(metadata, "tokenizer.ggml.bos_token_id", -1);
  check_config(config, file);
  config.rope.frequency_divisors = read_divisors(gguf.tensors, config.head_dim, file);
  check_config(config, file);  // the divisors' values too
  return config;
}

}  // namespace

CheckpointParts read_gguf(std::shared_ptr<const Mapping> file) {
  GgufFile gguf = GgufFile::parse(std::move(file));
  CheckpointParts parts;
  parts.path = gguf.file->path();
  parts.naming = Naming::gguf;
  parts.config = read_config(gguf);
  parts.tensors = std::move(gguf.tensors);
  parts.metadata = std::move(gguf.metadata);
  parts.files.emplace_back(parts.path.filename().string(), gguf.file);
  return parts;
}

}  // namespace convoy::model
