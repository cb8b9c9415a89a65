#include "model/checkpoint/checkpoint_weights.hpp"

#include <cassert>

#include "model/checkpoint/weight_names.hpp"
#include "model/error.hpp"
#include "model/json.hpp"

namespace convoy::model {

namespace {

std::string shape_text(std::span<const int64_t> shape) {
  std::string text = "[";
  for (const int64_t dim : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(dim);
  return text + "]";
}

/// Kernels load whole elements, so a weight has to lie on a multiple of its element's size.
size_t alignment(DType type) {
  if (type == DType::f32) return sizeof(float);
  if (type == DType::f8_e4m3 || type == DType::i8) return 1;
  return sizeof(uint16_t);  // f16 and bf16 values, and the f16 scales that quantised blocks have
}

bool aligned(std::span<const std::byte> bytes, size_t to) {
  return reinterpret_cast<uintptr_t>(bytes.data()) % to == 0;
}

class Collector {
 public:
  /// With a list nothing is looked up: what would be goes there.
  Collector(const CheckpointParts& parts, UsedTensors& used, AlignedCopies* copies,
            std::vector<WantedTensor>* list = nullptr)
      : parts_(parts), c_(parts.config), used_(used), copies_(copies), list_(list) {}

  StageWeights collect(LayerRange range) {
    assert(range.first >= 0 && range.first <= range.last && range.last < c_.layers);
    StageWeights weights;
    weights.range = range;
    for (int64_t n = range.first; n <= range.last; ++n) weights.layers.push_back(layer(n));
    prefix_.clear();
    if (range.first == 0) weights.embedding = matrix(names::embedding, c_.vocab, c_.hidden);
    if (range.last == c_.layers - 1) {
      weights.final_norm = vector(names::final_norm, c_.hidden);
      weights.head = matrix(c_.tied_head ? names::embedding : names::head, c_.vocab, c_.hidden);
    }
    return weights;
  }

 private:
  bool gguf() const { return parts_.naming == Naming::gguf; }

  LayerWeights layer(int64_t n) {
    prefix_ = layer_prefix(parts_.naming, n);
    LayerWeights w;
    w.attention_norm = vector(names::attention_norm, c_.hidden);
    w.mlp_norm = vector(names::mlp_norm, c_.hidden);
    if (c_.latent)
      latent_attention(*c_.latent, w);
    else
      grouped_attention(w);
    if (has_experts(c_, n))
      experts(*c_.moe, w);
    else
      dense(w);
    return w;
  }

  void grouped_attention(LayerWeights& w) {
    const int64_t q_width = c_.heads * c_.head_dim, kv_width = c_.kv_heads * c_.head_dim;
    w.q = matrix(names::q, q_width, c_.hidden);
    w.k = matrix(names::k, kv_width, c_.hidden);
    w.v = matrix(names::v, kv_width, c_.hidden);
    w.o = matrix(names::o, c_.hidden, q_width);
    if (c_.qkv_bias) {
      w.q_bias = vector(names::q_bias, q_width);
      w.k_bias = vector(names::k_bias, kv_width);
      w.v_bias = vector(names::v_bias, kv_width);
    }
    if (c_.o_bias) w.o_bias = vector(names::o_bias, c_.hidden);
    if (c_.qk_norm) {
      w.q_norm = vector(names::q_norm, c_.head_dim);
      w.k_norm = vector(names::k_norm, c_.head_dim);
    }
  }

  void latent_attention(const LatentAttention& l, LayerWeights& w) {
    LatentWeights& own = w.latent.emplace();
    const int64_t q_width = c_.heads * l.query();
    if (l.q_rank > 0) {
      own.q_a = matrix(names::q_a, l.q_rank, c_.hidden);
      own.q_a_norm = vector(names::q_a_norm, l.q_rank);
      w.q = matrix(names::q_b, q_width, l.q_rank);
    } else {
      w.q = matrix(names::q, q_width, c_.hidden);
    }
    own.kv_a = matrix(names::kv_a, l.cached(), c_.hidden);
    own.kv_a_norm = vector(names::kv_a_norm, l.latent);
    if (gguf() && parts_.tensors.contains(prefix_ + std::string(names::k_b.gguf))) {
      own.k_b = stacked(names::k_b.in(Naming::gguf), {c_.heads, l.latent, l.nope});
      own.v_b = stacked(names::v_b.in(Naming::gguf), {c_.heads, l.value, l.latent});
    } else {
      own.kv_b = matrix(names::kv_b, c_.heads * (l.nope + l.value), l.latent);
    }
    w.o = matrix(names::o, c_.hidden, c_.heads * l.value);
  }

  void mlp(const MlpName& name, int64_t width, LayerWeights& w) {
    w.gate = find(name.in(parts_.naming, "gate"), {width, c_.hidden}, false);
    w.up = find(name.in(parts_.naming, "up"), {width, c_.hidden}, false);
    w.down = find(name.in(parts_.naming, "down"), {c_.hidden, width}, false);
  }

  void dense(LayerWeights& w) {
    mlp(dense_mlp(), c_.intermediate, w);
    if (!c_.mlp_bias) return;
    w.gate_bias = vector(names::gate_bias, c_.intermediate);
    w.up_bias = vector(names::up_bias, c_.intermediate);
    w.down_bias = vector(names::down_bias, c_.hidden);
  }

  void experts(const Experts& moe, LayerWeights& w) {
    const int64_t count = moe.routing.experts;
    if (moe.shared > 0) mlp(shared_experts(), moe.shared * moe.width, w);
    ExpertWeights& own = w.experts.emplace();
    own.router = matrix(names::router, count, c_.hidden, plain_only);
    if (moe.routing.biased) own.router_bias = vector(names::router_bias, count);
    const auto all = [&](const char* part, std::vector<Tensor>& to, int64_t out, int64_t in) {
      if (gguf()) {
        const Tensor joined = stacked(expert(0).in(Naming::gguf, part), {count, out, in});
        for (int64_t e = 0; e < count; ++e) to.push_back(row_range(joined, e * out, out));
      } else {
        for (int64_t e = 0; e < count; ++e)
          to.push_back(find(expert(e).in(Naming::hugging_face, part), {out, in}, false));
      }
    };
    all("gate", own.gate, moe.width, c_.hidden);
    all("up", own.up, moe.width, c_.hidden);
    all("down", own.down, c_.hidden, moe.width);
  }

  static constexpr bool plain_only = true;

  Tensor vector(const WeightName& name, int64_t width) {
    return find(name.in(parts_.naming), {width}, plain_only);
  }
  Tensor matrix(const WeightName& name, int64_t out, int64_t in, bool plain = false) {
    return find(name.in(parts_.naming), {out, in}, plain);
  }
  /// A GGUF's matrices of one shape in one tensor, [count, out, in], as one tall matrix [count·out, in].
  Tensor stacked(const std::string& name, const std::vector<int64_t>& shape) {
    Tensor tensor = find(name, shape, false);
    tensor.shape = {shape[0] * shape[1], shape[2]};
    return tensor;
  }

  const Tensor& find(const std::string& weight, const std::vector<int64_t>& shape, bool plain_only) {
    const std::string name = prefix_ + weight;
    if (list_) {
      static const Tensor none;
      if (used_.insert(name).second) list_->push_back({name, shape, plain_only});
      return none;
    }
    const auto found = parts_.tensors.find(name);
    if (found == parts_.tensors.end())
      throw InputError("is missing", tensor_place(parts_, name),
                       "the checkpoint is incomplete; fetch it again");
    const Tensor& tensor = found->second;
    if (tensor.shape != shape)
      throw InputError(
          "has the shape " + shape_text(tensor.shape) + "; the configuration asks for " + shape_text(shape),
          tensor_place(parts_, name), "the checkpoint is damaged or its configuration belongs to another");
    const bool plain = tensor.type == DType::f32 || tensor.type == DType::f16 || tensor.type == DType::bf16;
    if (tensor.type == DType::i64 || (plain_only && !plain))
      throw InputError(
          "has the type " + std::string(info(tensor.type).name) + ", which a weight of its kind can't have",
          tensor_place(parts_, name), "the checkpoint is damaged or its configuration belongs to another");
    used_.insert(name);
    return copies_ ? loadable(name, tensor) : tensor;
  }

  /// A safetensors file may begin its data anywhere.
  const Tensor& loadable(const std::string& name, const Tensor& tensor) {
    const bool bytes = aligned(tensor.bytes, alignment(tensor.type)),
               scales = aligned(tensor.scales, sizeof(float));
    if (bytes && scales) return tensor;
    const auto [found, is_new] = copies_->try_emplace(name, tensor);
    Tensor& copy = found->second;
    if (is_new && !bytes) move_to_memory(copy.bytes, copy.owner);
    if (is_new && !scales) move_to_memory(copy.scales, copy.scales_owner);
    return copy;
  }

  static void move_to_memory(std::span<const std::byte>& bytes, std::shared_ptr<const Mapping>& owner) {
    owner->will_need(bytes);
    auto copy = Mapping::copy_of(bytes, owner->path());
    owner->forget(bytes);
    bytes = copy->bytes();
    owner = std::move(copy);
  }

  const CheckpointParts& parts_;
  const Config& c_;
  UsedTensors& used_;
  AlignedCopies* const copies_;  // null: nobody computes with what is collected
  std::vector<WantedTensor>* const list_;
  std::string prefix_;
};

}  // namespace

StageWeights collect_weights(const CheckpointParts& parts, LayerRange range, UsedTensors& used,
                             AlignedCopies* copies) {
  return Collector(parts, used, copies).collect(range);
}

void widen_scales(const CheckpointParts& parts, const UsedTensors& used) {
  if (!parts.narrow_scales) return;
  std::vector<const Tensor*> weights;
  for (const std::string& name : used) weights.push_back(&parts.tensors.find(name)->second);
  parts.narrow_scales->widen(weights);
}

std::vector<WantedTensor> list_weights(const Config& config) {
  CheckpointParts parts;
  parts.config = config;
  UsedTensors used;
  std::vector<WantedTensor> list;
  Collector(parts, used, nullptr, &list).collect({0, config.layers - 1});
  return list;
}

uint64_t value_count(const Tensor& tensor) {
  return tensor.bytes.size() / info(tensor.type).block_bytes * info(tensor.type).block_values;
}

std::string tensor_place(const CheckpointParts& parts, std::string_view name) {
  const auto found = parts.tensors.find(name);  // the file of several that it lies in
  const auto& path =
      found != parts.tensors.end() && found->second.owner ? found->second.owner->path() : parts.path;
  return path.string() + ": tensor " + in_quotes(name);
}

}  // namespace convoy::model
