#include "model/checkpoint/inspect.hpp"

#include <algorithm>
#include <map>

#include "model/chat/chat_template.hpp"
#include "model/chat/end_tokens.hpp"
#include "model/checkpoint/checkpoint_weights.hpp"
#include "model/error.hpp"
#include "model/tokenizer/tokenizer.hpp"

namespace convoy::model {

namespace {

uint64_t all_bytes(const Tensor& tensor) { return tensor.bytes.size() + tensor.scales.size(); }

/// Calls use(tensor) for each weight of a layer but those of its experts.
void for_each_common(const LayerWeights& w, const auto& use) {
  const auto maybe = [&](const std::optional<Tensor>& tensor) {
    if (tensor) use(*tensor);
  };
  for (const Tensor* tensor : {&w.attention_norm, &w.o, &w.mlp_norm, &w.q}) use(*tensor);
  if (!w.gate.shape.empty()) use(w.gate), use(w.up), use(w.down);
  for (const auto* part : {&w.q_bias, &w.k_bias, &w.v_bias, &w.o_bias, &w.q_norm, &w.k_norm, &w.gate_bias,
                           &w.up_bias, &w.down_bias})
    maybe(*part);
  if (const auto& l = w.latent) {
    for (const auto* part : {&l->q_a, &l->q_a_norm, &l->kv_b, &l->k_b, &l->v_b}) maybe(*part);
    use(l->kv_a), use(l->kv_a_norm);
  } else {
    use(w.k), use(w.v);
  }
  if (w.experts) use(w.experts->router), maybe(w.experts->router_bias);
}

/// Calls use(gate, up, down) for each expert.
void for_each_expert(const LayerWeights& w, const auto& use) {
  if (!w.experts) return;
  const ExpertWeights& e = *w.experts;
  for (size_t i = 0; i < e.gate.size(); ++i) use(e.gate[i], e.up[i], e.down[i]);
}

/// Calls use(layer) for each, which is gone then: all at once may take more memory than the file has bytes.
/// Returns what stands before and behind the layers.
StageWeights for_each_layer(const Checkpoint& checkpoint, LayerRange range, const auto& use) {
  StageWeights ends;
  for (int64_t n = range.first; n <= range.last; ++n) {
    StageWeights one = checkpoint.layout({n, n});
    use(one.layers.front());
    if (one.embedding) ends.embedding = std::move(one.embedding);
    if (one.final_norm) ends.final_norm = std::move(one.final_norm);
    if (one.head) ends.head = std::move(one.head);
  }
  return ends;
}

bool same_bytes(const std::optional<Tensor>& a, const std::optional<Tensor>& b) {
  return a && b && a->bytes.data() == b->bytes.data();
}

/// Sums up weights as they come.
class Count {
 public:
  explicit Count(const Config& config) : config_(config) {}

  void layer(const LayerWeights& w) {
    const uint64_t before = result.bytes;
    for_each_common(w, [&](const Tensor& tensor) { add(tensor, value_count(tensor)); });
    const uint64_t before_experts = result.bytes;
    uint64_t experts = 0, values = 0;
    for_each_expert(w, [&](const Tensor& gate, const Tensor& up, const Tensor& down) {
      const uint64_t bytes = result.bytes;
      for (const Tensor* part : {&gate, &up, &down}) add(*part, 0), values += value_count(*part);
      result.expert_bytes = std::max(result.expert_bytes, result.bytes - bytes);
      experts++;
    });
    // All experts of a layer have one shape, and hardly differ in type.
    if (experts > 0) {
      const auto chosen = static_cast<uint64_t>(config_.moe->routing.chosen);
      result.parameters_active += values / experts * chosen;
      result.bytes_active += (result.bytes - before_experts) / experts * chosen;
    }
    result.layer_bytes.push_back(result.bytes - before);
  }

  void add(const Tensor& tensor, uint64_t active) {
    result.parameters += value_count(tensor);
    result.parameters_active += active;
    result.bytes += all_bytes(tensor);
    result.bytes_active += all_bytes(tensor) * active / value_count(tensor);
    types_[tensor.type] += all_bytes(tensor);
  }

  Inspection finish() {
    result.types.assign(types_.begin(), types_.end());
    std::ranges::stable_sort(result.types, std::greater<>(), &std::pair<DType, uint64_t>::second);
    return std::move(result);
  }

  Inspection result;

 private:
  const Config& config_;
  std::map<DType, uint64_t> types_;
};

}  // namespace

Inspection inspect(const Checkpoint& checkpoint) {
  const Config& config = checkpoint.config();
  Count count(config);
  const StageWeights ends =
      for_each_layer(checkpoint, {0, config.layers - 1}, [&](const LayerWeights& w) { count.layer(w); });
  const bool tied = same_bytes(ends.embedding, ends.head);
  count.add(*ends.embedding, tied ? value_count(*ends.head) : static_cast<uint64_t>(config.hidden));
  count.add(*ends.final_norm, value_count(*ends.final_norm));
  if (!tied) count.add(*ends.head, value_count(*ends.head));
  Inspection result = count.finish();
  result.prediction_parameters = checkpoint.prediction_parameters();
  return result;
}

uint64_t stage_bytes(const Checkpoint& checkpoint, LayerRange range) {
  uint64_t bytes = 0;
  const auto add = [&](const Tensor& tensor) { bytes += all_bytes(tensor); };
  const StageWeights ends = for_each_layer(checkpoint, range, [&](const LayerWeights& w) {
    for_each_common(w, add);
    for_each_expert(w, [&](const auto&... parts) { (add(parts), ...); });
  });
  if (ends.embedding) add(*ends.embedding);
  if (ends.final_norm) add(*ends.final_norm);
  if (ends.head && !same_bytes(ends.embedding, ends.head)) add(*ends.head);
  return bytes;
}

uint64_t kv_bytes_per_token(const Config& config, int64_t layers, DType type) {
  uint64_t bytes = 0;  // of as many tokens as share an entry of the widest stream
  for (const CacheStream& stream : cache_streams(config))
    bytes += static_cast<uint64_t>(stream.width / stream.tokens_per_entry) * info(type).block_bytes;
  return bytes * static_cast<uint64_t>(layers);
}

TextParts inspect_text(const Checkpoint& checkpoint) {
  TextParts parts{"none", "none", {}};
  std::shared_ptr<const Tokenizer> tokenizer;
  std::optional<ChatTemplate> chat;
  if (checkpoint.has_tokenizer()) {
    parts.tokenizer = "unknown";
    try {
      tokenizer = Tokenizer::load(checkpoint.path());
      parts.tokenizer = tokenizer->kind();
      chat = ChatTemplate::of(*tokenizer);
      if (chat) parts.chat_template = chat->name();
    } catch (const InputError&) {  // which one it is says `convoy tokenize` or `convoy render`
      parts.chat_template = "unknown";
    }
  }
  for (const int32_t id : end_tokens(checkpoint.config(), tokenizer.get(), chat))
    parts.ends.emplace_back(id, tokenizer ? tokenizer->decode(std::span(&id, 1)) : "");
  return parts;
}

}  // namespace convoy::model
