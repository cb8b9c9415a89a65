// `convoy verify` over GGUF files of the golden checkpoints with grouped-query attention, written here tensor
// by tensor as llama.cpp's converter does: the logits have to stay those of the safetensors.

#include "test/gpu/golden_gguf.hpp"

using namespace convoy;
using namespace convoy::test;

namespace {

class GroupedGguf final : public GoldenGguf {
 public:
  GroupedGguf(const std::string& name, const std::string& architecture) : GoldenGguf(name) {
    const std::string p = architecture + ".";
    write_keys(architecture);
    file.key(p + "attention.head_count_kv", number(config_.kv_heads))
        .key(p + "attention.key_length", number(config_.head_dim))
        .key(p + "attention.value_length", number(config_.head_dim));
    write_ends();
    for (int64_t n = 0; n < config_.layers; ++n) write_layer(n);
  }

 private:
  void write_layer(int64_t n) {
    const std::string to = "blk." + std::to_string(n) + ".", from = "model.layers." + std::to_string(n) + ".";
    add(to + "attn_norm.weight", from + "input_layernorm.weight");
    add(to + "ffn_norm.weight", from + "post_attention_layernorm.weight");
    for (const auto& [gguf, hugging_face] :
         {std::pair{"q", "q"}, std::pair{"k", "k"}, std::pair{"v", "v"}, std::pair{"output", "o"}})
      add(to + "attn_" + gguf + ".weight", from + "self_attn." + hugging_face + "_proj.weight");
    for (const std::string part : {"q", "k"})
      add_if_there(to + "attn_" + part + "_norm.weight", from + "self_attn." + part + "_norm.weight");
    write_mlp(to, from, n);
  }
};

}  // namespace

BOOST_AUTO_TEST_CASE(a_gguf_of_qwen3_has_the_golden_logits) {
  const std::string gguf = GroupedGguf("qwen3", "qwen3").bytes();
  require_golden_logits("qwen3", gguf);
  require_golden_logits("qwen3", gguf, "--split 1");
}
