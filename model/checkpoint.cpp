#include "model/checkpoint.hpp"

#include <algorithm>
#include <array>
#include <cassert>
#include <set>

#include "model/checkpoint_parts.hpp"
#include "model/digest.hpp"
#include "model/error.hpp"
#include "model/json.hpp"

namespace convoy::model {

namespace {

/// A dimension of a weight, in the configuration's terms.
using Dim = int64_t (*)(const Config&);
int64_t vocab(const Config& c) { return c.vocab; }
int64_t hidden(const Config& c) { return c.hidden; }
int64_t intermediate(const Config& c) { return c.intermediate; }
int64_t q_width(const Config& c) { return c.heads * c.head_dim; }
int64_t kv_width(const Config& c) { return c.kv_heads * c.head_dim; }

/// A weight under both namings, with its shape; in == nullptr: a vector.
struct WeightName {
  const char* hugging_face;
  const char* gguf;
  Dim out, in;
};

struct LayerWeightName {
  Tensor LayerWeights::*member;
  WeightName name;
};

struct LayerBiasName {
  std::optional<Tensor> LayerWeights::*member;
  WeightName name;
};

constexpr WeightName embedding{"model.embed_tokens.weight", "token_embd.weight", vocab, hidden};
constexpr WeightName final_norm{"model.norm.weight", "output_norm.weight", hidden, nullptr};
constexpr WeightName head{"lm_head.weight", "output.weight", vocab, hidden};

// Every weight of a layer with its shape, [out, in]. The names follow "model.layers.<n>." and "blk.<n>.".
const std::array<LayerWeightName, 9> layer_weights{{
    {&LayerWeights::attention_norm, {"input_layernorm.weight", "attn_norm.weight", hidden, nullptr}},
    {&LayerWeights::q, {"self_attn.q_proj.weight", "attn_q.weight", q_width, hidden}},
    {&LayerWeights::k, {"self_attn.k_proj.weight", "attn_k.weight", kv_width, hidden}},
    {&LayerWeights::v, {"self_attn.v_proj.weight", "attn_v.weight", kv_width, hidden}},
    {&LayerWeights::o, {"self_attn.o_proj.weight", "attn_output.weight", hidden, q_width}},
    {&LayerWeights::mlp_norm, {"post_attention_layernorm.weight", "ffn_norm.weight", hidden, nullptr}},
    {&LayerWeights::gate, {"mlp.gate_proj.weight", "ffn_gate.weight", intermediate, hidden}},
    {&LayerWeights::up, {"mlp.up_proj.weight", "ffn_up.weight", intermediate, hidden}},
    {&LayerWeights::down, {"mlp.down_proj.weight", "ffn_down.weight", hidden, intermediate}},
}};
// With qkv_bias only.
const std::array<LayerBiasName, 3> layer_biases{{
    {&LayerWeights::q_bias, {"self_attn.q_proj.bias", "attn_q.bias", q_width, nullptr}},
    {&LayerWeights::k_bias, {"self_attn.k_proj.bias", "attn_k.bias", kv_width, nullptr}},
    {&LayerWeights::v_bias, {"self_attn.v_proj.bias", "attn_v.bias", kv_width, nullptr}},
}};

/// What weights_digest() asks the kernel to read at once.
constexpr size_t digest_chunk_bytes = 8 << 20;

std::string shape_text(std::span<const int64_t> shape) {
  std::string text = "[";
  for (const int64_t dim : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(dim);
  return text + "]";
}

/// Kernels load whole elements, so a weight has to lie on a multiple of its element's size.
size_t alignment(DType type) {
  if (type == DType::f32) return sizeof(float);
  return sizeof(uint16_t);  // f16 and bf16 values, and the f16 scales that quantised blocks begin with
}

class FileCheckpoint final : public Checkpoint {
 public:
  explicit FileCheckpoint(CheckpointParts parts) : parts_(std::move(parts)) {}

  const Config& config() const override { return parts_.config; }
  const std::filesystem::path& path() const override { return parts_.path; }
  bool is_gguf() const override { return parts_.naming == Naming::gguf; }
  const GgufMetadata& metadata() const override { return parts_.metadata; }

  StageWeights stage(LayerRange range) const override {
    std::set<std::string, std::less<>> names;
    StageWeights weights = collect(range, names);
    for (const std::string& name : names) {
      const Tensor& tensor = parts_.tensors.find(name)->second;
      tensor.owner->will_need(tensor.bytes);
    }
    return weights;
  }

  std::string weights_digest() const override {
    Sha256 digest;
    for (const auto& [name, file] : parts_.files) {
      // A GGUF's digest is that of its one file, as sha256sum gives it. Several files are framed by name and
      // size, so that no other division of the same bytes has the same digest.
      if (parts_.files.size() > 1) digest.update(name + '\0' + std::to_string(file->bytes().size()) + '\0');
      const auto bytes = file->bytes();
      for (size_t at = 0; at < bytes.size(); at += digest_chunk_bytes) {
        const auto chunk = bytes.subspan(at, std::min(digest_chunk_bytes, bytes.size() - at));
        file->will_need(chunk);
        digest.update(chunk);
      }
    }
    return digest.hex();
  }

  /// Collects every weight once, so that a bad one is found when the checkpoint is opened, and refuses
  /// tensors that nothing uses: they would change the result if we knew what they are. Touches no page of a
  /// weight.
  void check() const {
    std::set<std::string, std::less<>> used;
    collect({0, parts_.config.layers - 1}, used);
    for (const auto& [name, tensor] : parts_.tensors)
      if (!used.contains(name) && !is_harmless(name))
        throw InputError("is not a weight of " + parts_.config.architecture, where(name),
                         "Convoy would ignore it, and may not: use a plain checkpoint of this architecture");
  }

 private:
  StageWeights collect(LayerRange range, std::set<std::string, std::less<>>& used) const {
    const Config& config = parts_.config;
    assert(range.first >= 0 && range.first <= range.last && range.last < config.layers);
    StageWeights weights;
    weights.range = range;
    for (int64_t layer = range.first; layer <= range.last; ++layer) {
      const std::string prefix =
          (parts_.naming == Naming::gguf ? "blk." : "model.layers.") + std::to_string(layer) + ".";
      LayerWeights& one = weights.layers.emplace_back();
      for (const auto& [member, name] : layer_weights) one.*member = weight(prefix, name, used);
      if (config.qkv_bias)
        for (const auto& [member, name] : layer_biases) one.*member = weight(prefix, name, used);
    }
    if (range.first == 0) weights.embedding = weight("", embedding, used);
    if (range.last == config.layers - 1) {
      weights.final_norm = weight("", final_norm, used);
      weights.head = weight("", config.tied_head ? embedding : head, used);
    }
    return weights;
  }

  const Tensor& weight(const std::string& prefix, const WeightName& weight,
                       std::set<std::string, std::less<>>& used) const {
    const std::string name = prefix + (parts_.naming == Naming::gguf ? weight.gguf : weight.hugging_face);
    const auto found = parts_.tensors.find(name);
    if (found == parts_.tensors.end())
      throw InputError("is missing", where(name), "the checkpoint is incomplete; fetch it again");
    const Tensor& tensor = found->second;
    std::vector<int64_t> shape{weight.out(parts_.config)};
    if (weight.in) shape.push_back(weight.in(parts_.config));
    const std::string mend = "the checkpoint is damaged or its configuration belongs to another";
    if (tensor.shape != shape)
      throw InputError(
          "has the shape " + shape_text(tensor.shape) + "; the configuration asks for " + shape_text(shape),
          where(name), mend);
    const bool plain = tensor.type == DType::f32 || tensor.type == DType::f16 || tensor.type == DType::bf16;
    if (tensor.type == DType::i64 || (!weight.in && !plain))
      throw InputError(
          "has the type " + std::string(info(tensor.type).name) + ", which a weight of its kind can't have",
          where(name), mend);
    if (reinterpret_cast<uintptr_t>(tensor.bytes.data()) % alignment(tensor.type) != 0)
      throw InputError("lies at an odd place in the file", where(name),
                       "save the file with a current safetensors");
    used.insert(name);
    return tensor;
  }

  /// Tensors that checkpoints carry beside the weights: tables derived from the configuration, the frequency
  /// divisors (already in the configuration) and the copy of a tied head.
  bool is_harmless(std::string_view name) const {
    if (parts_.naming == Naming::gguf) return name == "rope_freqs.weight";
    return name.ends_with(".rotary_emb.inv_freq") || (parts_.config.tied_head && name == head.hugging_face);
  }

  std::string where(std::string_view name) const {
    return parts_.path.string() + ": tensor " + in_quotes(name);
  }

  CheckpointParts parts_;
};

}  // namespace

std::shared_ptr<const Checkpoint> make_checkpoint(CheckpointParts parts) {
  auto checkpoint = std::make_shared<FileCheckpoint>(std::move(parts));
  checkpoint->check();
  return checkpoint;
}

std::shared_ptr<const Checkpoint> Checkpoint::open(const std::filesystem::path& path) {
  std::error_code ignored;  // a path that can't be looked at is reported by Mapping::open
  if (std::filesystem::is_directory(path, ignored)) return make_checkpoint(read_directory(path));
  auto file = Mapping::open(path);
  if (!looks_like_gguf(file->bytes()))
    throw InputError("is not a GGUF file", path.string(),
                     "give a GGUF file, or the directory that holds config.json and the safetensors");
  return make_checkpoint(read_gguf(std::move(file)));
}

}  // namespace convoy::model
