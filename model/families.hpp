#pragma once
// The families of models that Convoy runs, a row each: what tells them apart beside the numbers of a
// configuration. What reads and what writes configurations asks here. Internal to model/.

#include <cstdint>
#include <string>
#include <string_view>

#include "model/config.hpp"

namespace convoy::model {

/// On which of attention's projections there are biases.
enum class AttentionBias : uint8_t {
  never,     // the reference does not read attention_bias
  qkv,       // always on queries, keys and values, never on the output: it does not read it either
  optional,  // on those and the output if attention_bias says so, on a dense MLP's three if mlp_bias does; a
             // GGUF says it by having them
  refused,   // where attention_bias asks for some the checkpoint is refused
};

struct Family {
  std::string_view name;         // model_type of a config.json
  std::string_view model_class;  // in transformers
  std::string_view gguf;         // general.architecture of a GGUF; the first of several stands for it
  RopePairs gguf_pairs;          // which values of a head a GGUF has rotate together
  AttentionBias attention_bias = AttentionBias::refused;
  bool qk_norm = false;
  bool window = false;  // sliding_window says over how many tokens attention reaches back
};

inline constexpr Family families[] = {
    {"llama", "LlamaForCausalLM", "llama", RopePairs::interleaved, AttentionBias::optional},
    {"mistral", "MistralForCausalLM", "llama", RopePairs::interleaved, AttentionBias::never, false, true},
    {"qwen2", "Qwen2ForCausalLM", "qwen2", RopePairs::half_split, AttentionBias::qkv},
    {"qwen3", "Qwen3ForCausalLM", "qwen3", RopePairs::half_split, AttentionBias::refused, true},
    {"qwen3_moe", "Qwen3MoeForCausalLM", "qwen3moe", RopePairs::half_split, AttentionBias::refused, true},
    {"deepseek_v2", "DeepseekV2ForCausalLM", "deepseek2", RopePairs::interleaved},
    {"deepseek_v3", "DeepseekV3ForCausalLM", "deepseek2", RopePairs::interleaved},
};

/// By a config.json's name; nullptr: not known.
const Family* find_family(std::string_view name);
/// The family whose layers a GGUF of that architecture describes; nullptr: not known.
const Family* find_gguf_family(std::string_view architecture);
/// Of a configuration that was read.
const Family& family_of(const Config& config);
/// "llama, mistral and qwen2", for messages: the names in a config.json, or in a GGUF.
std::string family_names();
std::string gguf_family_names();

}  // namespace convoy::model
