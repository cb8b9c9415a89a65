#pragma once
// What each weight is called in Hugging Face's layout and in a GGUF. What reads checkpoints and what writes
// them share these names. Internal to model/.

#include <string>
#include <string_view>

#include "model/checkpoint/checkpoint_parts.hpp"

namespace convoy::model {

struct WeightName {
  std::string_view hugging_face, gguf;
  std::string in(Naming naming) const { return std::string(naming == Naming::gguf ? gguf : hugging_face); }
};

/// What the names of a layer's weights begin with.
inline std::string layer_prefix(Naming naming, int64_t layer) {
  return (naming == Naming::gguf ? "blk." : "model.layers.") + std::to_string(layer) + ".";
}

namespace names {

inline constexpr WeightName embedding{"model.embed_tokens.weight", "token_embd.weight"};
inline constexpr WeightName final_norm{"model.norm.weight", "output_norm.weight"};
inline constexpr WeightName head{"lm_head.weight", "output.weight"};

// Of a layer.
inline constexpr WeightName attention_norm{"input_layernorm.weight", "attn_norm.weight"};
inline constexpr WeightName mlp_norm{"post_attention_layernorm.weight", "ffn_norm.weight"};
inline constexpr WeightName q{"self_attn.q_proj.weight", "attn_q.weight"};
inline constexpr WeightName k{"self_attn.k_proj.weight", "attn_k.weight"};
inline constexpr WeightName v{"self_attn.v_proj.weight", "attn_v.weight"};
inline constexpr WeightName o{"self_attn.o_proj.weight", "attn_output.weight"};
inline constexpr WeightName q_bias{"self_attn.q_proj.bias", "attn_q.bias"};
inline constexpr WeightName k_bias{"self_attn.k_proj.bias", "attn_k.bias"};
inline constexpr WeightName v_bias{"self_attn.v_proj.bias", "attn_v.bias"};
inline constexpr WeightName o_bias{"self_attn.o_proj.bias", "attn_output.bias"};
inline constexpr WeightName gate_bias{"mlp.gate_proj.bias", "ffn_gate.bias"};
inline constexpr WeightName up_bias{"mlp.up_proj.bias", "ffn_up.bias"};
inline constexpr WeightName down_bias{"mlp.down_proj.bias", "ffn_down.bias"};
inline constexpr WeightName q_norm{"self_attn.q_norm.weight", "attn_q_norm.weight"};
inline constexpr WeightName k_norm{"self_attn.k_norm.weight", "attn_k_norm.weight"};
inline constexpr WeightName q_a{"self_attn.q_a_proj.weight", "attn_q_a.weight"};
inline constexpr WeightName q_a_norm{"self_attn.q_a_layernorm.weight", "attn_q_a_norm.weight"};
inline constexpr WeightName q_b{"self_attn.q_b_proj.weight", "attn_q_b.weight"};
inline constexpr WeightName kv_a{"self_attn.kv_a_proj_with_mqa.weight", "attn_kv_a_mqa.weight"};
inline constexpr WeightName kv_a_norm{"self_attn.kv_a_layernorm.weight", "attn_kv_a_norm.weight"};
inline constexpr WeightName kv_b{"self_attn.kv_b_proj.weight", "attn_kv_b.weight"};
inline constexpr WeightName k_b{"", "attn_k_b.weight"};  // a GGUF's alone
inline constexpr WeightName v_b{"", "attn_v_b.weight"};
inline constexpr WeightName router{"mlp.gate.weight", "ffn_gate_inp.weight"};
inline constexpr WeightName router_bias{"mlp.gate.e_score_correction_bias", "exp_probs_b.bias"};

inline constexpr std::string_view rope_divisors = "rope_freqs.weight";  // a GGUF's alone

}  // namespace names

/// An MLP's three weights: begin + part + _proj.weight, or ffn_ + part + gguf_end + .weight; the parts are
/// gate, up and down.
struct MlpName {
  std::string begin, gguf_end;
  std::string in(Naming naming, std::string_view part) const {
    const std::string middle(part);
    return naming == Naming::gguf ? "ffn_" + middle + gguf_end + ".weight" : begin + middle + "_proj.weight";
  }
};

inline MlpName dense_mlp() { return {"mlp.", ""}; }
inline MlpName shared_experts() { return {"mlp.shared_experts.", "_shexp"}; }
/// In a GGUF all experts are one tensor.
inline MlpName expert(int64_t index) { return {"mlp.experts." + std::to_string(index) + ".", "_exps"}; }

}  // namespace convoy::model
