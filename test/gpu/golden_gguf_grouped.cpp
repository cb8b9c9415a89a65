// `convoy verify` over GGUF files of the golden checkpoints with grouped-query attention, written here tensor
// by tensor as llama.cpp's converter does: the logits have to stay those of the safetensors.

#include "test/gpu/golden_gguf.hpp"

using namespace convoy;
using namespace convoy::test;

namespace {

class GroupedGguf final : public GoldenGguf {
 public:
  GroupedGguf(const std::string& name, const std::string& architecture)
      : GoldenGguf(name), pairs_are_neighbours_(architecture == "llama") {
    const std::string p = architecture + ".";
    write_keys(architecture);
    file.key(p + "attention.head_count_kv", number(config_.kv_heads))
        .key(p + "attention.key_length", number(config_.head_dim))
        .key(p + "attention.value_length", number(config_.head_dim));
    if (config_.moe)
      file.key(p + "expert_count", number(config_.moe->routing.experts))
          .key(p + "expert_used_count", number(config_.moe->routing.chosen))
          .key(p + "expert_feed_forward_length", number(config_.moe->width));
    if (const auto& yarn = config_.rope.yarn)
      file.key(p + "rope.scaling.type", std::string("yarn"))
          .key(p + "rope.scaling.factor", static_cast<float>(yarn->factor))
          .key(p + "rope.scaling.original_context_length", number(yarn->original_context))
          .key(p + "rope.scaling.attn_factor", static_cast<float>(yarn->attn_factor));
    write_ends();
    for (int64_t n = 0; n < config_.layers; ++n) write_layer(n);
  }

 private:
  void write_layer(int64_t n) {
    const std::string to = "blk." + std::to_string(n) + ".", from = "model.layers." + std::to_string(n) + ".";
    add(to + "attn_norm.weight", from + "input_layernorm.weight");
    add(to + "ffn_norm.weight", from + "post_attention_layernorm.weight");
    for (const std::string kind : {".weight", ".bias"})
      for (const auto& [gguf, hugging_face] :
           {std::pair{"q", "q"}, std::pair{"k", "k"}, std::pair{"v", "v"}, std::pair{"output", "o"}}) {
        const std::string name = from + "self_attn." + hugging_face + "_proj" + kind;
        if (!source_.has(name)) continue;
        const bool turned = pairs_are_neighbours_ && (hugging_face[0] == 'q' || hugging_face[0] == 'k');
        add(to + "attn_" + gguf + kind,
            turned ? with_pairs_as_neighbours(source_.get(name)) : source_.get(name));
      }
    for (const std::string part : {"q", "k"})
      add_if_there(to + "attn_" + part + "_norm.weight", from + "self_attn." + part + "_norm.weight");
    write_mlp(to, from, n);
  }

  /// What rotates together is half a head apart in safetensors; in a GGUF of llama it comes one after the
  /// other.
  Matrix with_pairs_as_neighbours(const Matrix& from) const {
    const bool bias = from.dims.size() == 1;
    const size_t width = bias ? 1 : from.dims[0], d = static_cast<size_t>(config_.head_dim);
    Matrix to = from;
    for (size_t row = 0; row < from.values.size() / width; ++row) {
      const size_t i = row % d, place = row / d * d + i % (d / 2) * 2 + i / (d / 2);
      std::copy_n(from.values.begin() + static_cast<std::ptrdiff_t>(row * width), width,
                  to.values.begin() + static_cast<std::ptrdiff_t>(place * width));
    }
    return to;
  }

  bool pairs_are_neighbours_;
};

void require_same_logits(const std::string& model, const std::string& architecture) {
  const std::string gguf = GroupedGguf(model, architecture).bytes();
  require_golden_logits(model, gguf);
  require_golden_logits(model, gguf, "--split 1");
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_gguf_of_llama_with_biases_has_the_golden_logits) {
  require_same_logits("llama-bias", "llama");
  require_same_logits("llama-mlp-bias", "llama");
}

BOOST_AUTO_TEST_CASE(a_gguf_of_mistral_is_one_of_llama_and_has_the_golden_logits) {
  require_same_logits("mistral", "llama");
}

BOOST_AUTO_TEST_CASE(a_gguf_of_qwen3_has_the_golden_logits) { require_same_logits("qwen3", "qwen3"); }

BOOST_AUTO_TEST_CASE(a_gguf_of_qwen3_with_a_stretched_context_has_the_golden_logits) {
  require_same_logits("qwen3-yarn", "qwen3");
}

BOOST_AUTO_TEST_CASE(a_gguf_of_qwen3_with_experts_has_the_golden_logits) {
  require_same_logits("qwen3-moe", "qwen3moe");
}

BOOST_AUTO_TEST_CASE(a_gguf_of_qwen3_with_experts_that_would_be_weighed_otherwise_is_refused_by_name) {
  const TemporaryFolder folder;
  const auto refused = [&](const char* key, auto... value) {
    GroupedGguf gguf("qwen3-moe", "qwen3moe");
    gguf.file.key(key, value...);
    CHECK_INPUT_ERROR(model::Checkpoint::open(folder.write("model.gguf", gguf.bytes())), key);
  };
  refused("qwen3moe.expert_weights_norm", gguf_bool, std::string(1, '\0'));
  refused("qwen3moe.expert_gating_func", uint32_t{2});
  refused("qwen3moe.expert_weights_scale", 2.0f);
  refused("qwen3moe.expert_group_count", uint32_t{2});
}
