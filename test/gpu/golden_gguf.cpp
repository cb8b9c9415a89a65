// `convoy verify` over GGUF files of the golden DeepSeek checkpoints, written here tensor by tensor as
// converters of three generations write them: the logits have to stay those of the safetensors.

#include "test/gpu/golden_gguf.hpp"

using namespace convoy;
using namespace convoy::test;

namespace {

/// How attention's second matrix of keys and values stands in the file.
enum class Latent { joint, split };

class DeepseekGguf final : public GoldenGguf {
 public:
  DeepseekGguf(const std::string& name, Latent latent) : GoldenGguf(name), latent_(latent) {
    write_keys("deepseek2");
    write_own_keys();
    write_ends();
    for (int64_t n = 0; n < config_.layers; ++n) write_layer(n);
  }

 private:
  void write_own_keys() {
    const auto& l = *config_.latent;
    const auto& yarn = *config_.rope.yarn;
    const auto& moe = *config_.moe;
    const std::string p = "deepseek2.";
    file.key(p + "attention.head_count_kv", number(latent_ == Latent::split ? 1 : config_.heads))
        .key(p + "attention.kv_lora_rank", number(l.latent))
        .key(p + "attention.key_length",
             number(latent_ == Latent::split ? l.latent + l.rope : l.nope + l.rope))
        .key(p + "attention.value_length", number(latent_ == Latent::split ? l.latent : l.value))
        .key(p + "rope.dimension_count", number(l.rope))
        .key(p + "rope.scaling.type", std::string("yarn"))
        .key(p + "rope.scaling.factor", static_cast<float>(yarn.factor))
        .key(p + "rope.scaling.original_context_length", number(yarn.original_context))
        .key(p + "rope.scaling.yarn_log_multiplier", static_cast<float>(0.1 * yarn.mscale_all_dim))
        .key(p + "leading_dense_block_count", number(moe.dense_layers))
        .key(p + "expert_feed_forward_length", number(moe.width))
        .key(p + "expert_count", number(moe.routing.experts))
        .key(p + "expert_used_count", number(moe.routing.chosen))
        .key(p + "expert_shared_count", number(moe.shared))
        .key(p + "expert_weights_scale", static_cast<float>(moe.routing.scale))
        .key(p + "expert_weights_norm", gguf_bool, std::string(1, moe.routing.normalised ? '\1' : '\0'));
    if (l.q_rank > 0) file.key(p + "attention.q_lora_rank", number(l.q_rank));
    if (latent_ == Latent::split)
      file.key(p + "attention.key_length_mla", number(l.nope + l.rope))
          .key(p + "attention.value_length_mla", number(l.value));
    // Converters before V3 wrote no function: softmax was the only one.
    if (moe.routing.scoring == model::Scoring::sigmoid) file.key(p + "expert_gating_func", uint32_t{2});
    if (moe.routing.groups > 1)
      file.key(p + "expert_group_count", number(moe.routing.groups))
          .key(p + "expert_group_used_count", number(moe.routing.groups_chosen));
  }

  void write_layer(int64_t n) {
    const std::string to = "blk." + std::to_string(n) + ".", from = "model.layers." + std::to_string(n) + ".";
    add(to + "attn_norm.weight", from + "input_layernorm.weight");
    add(to + "ffn_norm.weight", from + "post_attention_layernorm.weight");
    add_if_there(to + "attn_q.weight", from + "self_attn.q_proj.weight");
    add_if_there(to + "attn_q_a.weight", from + "self_attn.q_a_proj.weight");
    add_if_there(to + "attn_q_a_norm.weight", from + "self_attn.q_a_layernorm.weight");
    add_if_there(to + "attn_q_b.weight", from + "self_attn.q_b_proj.weight");
    add(to + "attn_kv_a_mqa.weight", from + "self_attn.kv_a_proj_with_mqa.weight");
    add(to + "attn_kv_a_norm.weight", from + "self_attn.kv_a_layernorm.weight");
    add(to + "attn_output.weight", from + "self_attn.o_proj.weight");
    if (latent_ == Latent::joint)
      add(to + "attn_kv_b.weight", from + "self_attn.kv_b_proj.weight");
    else
      write_split(to, from);
    write_mlp(to, from, n);
    for (const std::string part : {"gate", "up", "down"})
      add_if_there(to + "ffn_" + part + "_shexp.weight",
                   from + "mlp.shared_experts." + part + "_proj.weight");
    add_if_there(to + "exp_probs_b.bias", from + "mlp.gate.e_score_correction_bias");
  }

  /// Each head's key rows, transposed, and its value rows.
  void write_split(const std::string& to, const std::string& from) {
    const Matrix joint = source_.get(from + "self_attn.kv_b_proj.weight");
    const auto latent = static_cast<size_t>(config_.latent->latent),
               nope = static_cast<size_t>(config_.latent->nope),
               value = static_cast<size_t>(config_.latent->value), heads = static_cast<size_t>(config_.heads);
    Matrix k{{nope, latent, heads}, std::vector<float>(nope * latent * heads)};
    Matrix v{{latent, value, heads}, std::vector<float>(latent * value * heads)};
    for (size_t h = 0; h < heads; ++h) {
      const float* head = joint.values.data() + h * (nope + value) * latent;
      for (size_t i = 0; i < nope * latent; ++i)
        k.values[h * nope * latent + i % latent * nope + i / latent] = head[i];
      std::copy_n(head + nope * latent, value * latent,
                  v.values.begin() + static_cast<std::ptrdiff_t>(h * value * latent));
    }
    add(to + "attn_k_b.weight", std::move(k));
    add(to + "attn_v_b.weight", std::move(v));
  }

  Latent latent_;
};

void require_same_logits(const std::string& model, Latent latent) {
  require_golden_logits(model, DeepseekGguf(model, latent).bytes());
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_gguf_of_deepseek_v2_lite_has_the_golden_logits) {
  require_same_logits("deepseek-v2-lite", Latent::joint);
  require_same_logits("deepseek-v2-lite", Latent::split);
}

BOOST_AUTO_TEST_CASE(a_gguf_of_deepseek_v2_has_the_golden_logits) {
  require_same_logits("deepseek-v2", Latent::joint);
  require_same_logits("deepseek-v2", Latent::split);
}

BOOST_AUTO_TEST_CASE(a_gguf_of_deepseek_v3_has_the_golden_logits) {
  require_same_logits("deepseek-v3", Latent::joint);
  require_same_logits("deepseek-v3", Latent::split);
}

BOOST_AUTO_TEST_CASE(a_deepseek_gguf_says_what_its_safetensors_say) {
  for (const char* name : {"deepseek-v2-lite", "deepseek-v2", "deepseek-v3"}) {
    BOOST_TEST_CONTEXT(name) {
      const TemporaryFolder folder;
      const auto path = folder.write("model.gguf", DeepseekGguf(name, Latent::split).bytes());
      const model::Config of_gguf = model::Checkpoint::open(path)->config(),
                          expected = model::Checkpoint::open(golden(name))->config();
      BOOST_TEST(of_gguf.architecture == expected.architecture);
      BOOST_TEST(of_gguf.kv_heads == expected.kv_heads);
      BOOST_TEST(of_gguf.latent->nope == expected.latent->nope);
      BOOST_TEST(of_gguf.latent->value == expected.latent->value);
      BOOST_TEST((of_gguf.moe->routing.group_score == expected.moe->routing.group_score));
      BOOST_TEST(of_gguf.moe->routing.biased == expected.moe->routing.biased);
      BOOST_TEST(of_gguf.rope.yarn->mscale_all_dim == expected.rope.yarn->mscale_all_dim,
                 boost::test_tools::tolerance(1e-6));
      BOOST_TEST(attention_scale(of_gguf) == attention_scale(expected), boost::test_tools::tolerance(1e-6f));
    }
  }
}

BOOST_AUTO_TEST_CASE(a_deepseek_gguf_that_leaves_room_for_guesses_is_refused_by_name) {
  const TemporaryFolder folder;
  const auto refused = [&](const char* model, Latent latent, const char* key, auto change) {
    DeepseekGguf gguf(model, latent);
    change(gguf.file);
    const auto path = folder.write("model.gguf", gguf.bytes());
    CHECK_INPUT_ERROR(model::Checkpoint::open(path), key);
  };
  const auto set = [](const char* key, auto value) {
    return [=](GgufBuilder& file) { file.key(key, value); };
  };
  const auto without = [](const char* key) {
    return
        [=](GgufBuilder& file) { std::erase_if(file.keys, [&](const auto& k) { return k.first == key; }); };
  };
  const char* const lite = "deepseek-v2-lite";
  refused(lite, Latent::joint, "old converter", set("deepseek2.expert_count", uint32_t{160}));
  refused(lite, Latent::joint, "attention.temperature_scale",
          set("deepseek2.attention.temperature_scale", 0.1f));
  refused(lite, Latent::joint, "expert_gating_func", set("deepseek2.expert_gating_func", uint32_t{3}));
  refused(lite, Latent::joint, "nextn_predict_layers", set("deepseek2.nextn_predict_layers", uint32_t{1}));
  refused(lite, Latent::joint, "yarn_attn_factor", set("deepseek2.rope.scaling.yarn_attn_factor", 1.4f));
  refused(lite, Latent::joint, "yarn_log_multiplier", without("deepseek2.rope.scaling.yarn_log_multiplier"));
  refused(lite, Latent::joint, "scales the rotary positions", without("deepseek2.rope.scaling.type"));
  refused(lite, Latent::joint, "attention.key_length", set("deepseek2.attention.key_length", uint32_t{64}));
  refused(lite, Latent::joint, "head_count_kv", set("deepseek2.attention.head_count_kv", uint32_t{7}));
  refused(lite, Latent::split, "attention.key_length", set("deepseek2.attention.key_length", uint32_t{192}));
  refused(lite, Latent::split, "value_length_mla", without("deepseek2.attention.value_length_mla"));
  refused("deepseek-v2", Latent::joint, "expert_group_used_count",
          without("deepseek2.expert_group_used_count"));
  refused("deepseek-v3", Latent::joint, "expert_gating_func", without("deepseek2.expert_gating_func"));
}
