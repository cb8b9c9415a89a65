#pragma once
// What a checkpoint says about its architecture, read from config.json or a GGUF's metadata. Families differ
// by data here, not by a class each: the forward pass reads this description.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace convoy::model {

/// Which elements of a head are rotated together: half_split pairs (i, i + d/2), interleaved pairs (2i, 2i +
/// 1). GGUF files of `llama` store Q and K permuted so that interleaved pairs give what half_split gives on
/// the original.
enum class RopePairs : uint8_t { half_split, interleaved };

/// Llama 3's frequency scaling (arXiv 2407.21783; HF `rope_type: llama3`).
struct Llama3Rope {
  double factor, low_freq_factor, high_freq_factor;
  int64_t original_context;
};

/// YaRN (arXiv 2309.00071): the ramp between interpolated and kept frequencies is laid over the original
/// context, cos and sin are multiplied by attn_factor · m(mscale) / m(mscale_all_dim), and attention's scale
/// by m(mscale_all_dim)², with m(s) = 0.1·s·ln(factor) + 1. DeepSeek's V2 and V3 give both s; elsewhere they
/// are 1 and 0, as in the paper.
struct YarnRope {
  double factor, beta_fast, beta_slow, mscale, mscale_all_dim;
  int64_t original_context;
  double attn_factor = 1;
};

struct Rope {
  double theta = 10000.0;
  RopePairs pairs = RopePairs::half_split;
  std::optional<Llama3Rope> llama3;
  std::optional<YarnRope> yarn;
  /// GGUF carries the llama3 scaling as factors per frequency (rope_freqs.weight) that divide it; empty:
  /// none.
  std::vector<float> frequency_divisors;
};

/// Multi-head latent attention (arXiv 2405.04434, section 2.1): keys and values of a token are one latent
/// vector and one rotated key that all heads share.
struct LatentAttention {
  int64_t q_rank = 0;                     // queries go through so many values first; 0: they do not
  int64_t latent = 0;                     // kv_lora_rank: what is cached, beside `rope` values
  int64_t nope = 0, rope = 0, value = 0;  // of each head
  double norm_eps = 1e-6;                 // of the two inner norms; the reference has it fixed
  int64_t query() const { return nope + rope; }
  int64_t cached() const { return latent + rope; }
};

enum class Scoring : uint8_t { softmax, sigmoid };
/// What a group of experts is worth before the best groups are taken.
enum class GroupScore : uint8_t { best, best_two };

/// Which experts a token goes to. Scores are computed in float32. With a correction bias it shifts the
/// choice, never the weights (arXiv 2408.15664).
struct Routing {
  int64_t experts = 0, chosen = 0;
  int64_t groups = 1, groups_chosen = 1;
  Scoring scoring = Scoring::softmax;
  GroupScore group_score = GroupScore::best;
  bool biased = false;      // there is a correction bias
  bool normalised = false;  // the chosen weights are divided by their sum
  double scale = 1;         // then multiplied by this
};

/// Mixture of experts (arXiv 2401.06066). Which layers have them says has_experts().
struct Experts {
  Routing routing;
  int64_t width = 0;           // intermediate size of one expert
  int64_t shared = 0;          // experts that every token goes to: one MLP of shared · width; 0: none
  int64_t dense_layers = 0;    // the first ones, which have none
  int64_t step = 1;            // of the others each step-th has them: n if step divides n + 1
  std::vector<int64_t> dense;  // and of those not these
};

/// What a layer keeps of each token: one array of `width` values for every `tokens_per_entry` tokens.
struct CacheStream {
  int64_t width = 0, tokens_per_entry = 1;
};

struct Config {
  std::string architecture;  // the family's name (model/families.hpp)
  int64_t layers = 0, hidden = 0, vocab = 0;
  int64_t intermediate = 0;                       // of a dense MLP
  int64_t heads = 0, kv_heads = 0, head_dim = 0;  // head_dim: of the rotated part with latent attention
  std::optional<LatentAttention> latent;
  std::optional<Experts> moe;
  int64_t prediction_layers = 0;  // multi-token prediction, after the model's own; never run
  int64_t context = 0;            // positions
  double rms_eps = 0;
  bool qkv_bias = false, o_bias = false, mlp_bias = false;  // mlp: gate, up and down of a dense MLP
  bool qk_norm = false;  // each head's query and key is normalised before it is rotated
  bool tied_head = false;
  Rope rope;
  std::vector<int32_t> end_tokens;  // generation ends at any of these; may be empty
  int32_t bos_token = -1;           // −1: none
};

/// Does that layer have experts, or a dense MLP?
bool has_experts(const Config& config, int64_t layer);
/// Every layer's, in the order that the backend knows: keys and values, or the latent with its rotated key.
std::vector<CacheStream> cache_streams(const Config& config);
/// q·k is multiplied by this before the softmax.
float attention_scale(const Config& config);

/// Limits on what a configuration may ask for; no published model comes near them.
inline constexpr int64_t layers_max = 4096, heads_max = 4096, head_dim_max = 4096;
inline constexpr int64_t width_max = 1 << 20;  // hidden, intermediate
inline constexpr int64_t vocab_max = 1 << 20, context_max = 1 << 24, experts_max = 1 << 12;

/// Reads a Hugging Face config.json, and the end tokens of a generation_config.json beside it. Throws
/// InputError that names the field. An architecture, or a field that would change the result and is not
/// understood, is an error, never a guess. Fields that the reference implementation of the architecture never
/// reads are ignored here too.
/// generation is empty if there is no such file; `where` names the file in messages.
Config parse_config_json(std::string_view text, std::string_view generation, const std::string& where);

/// Checks that the numbers are within the limits and fit together, whatever file they came from. Throws
/// InputError.
void check_config(const Config& config, const std::string& where);

/// cos and sin of position·frequency for each of head_dim/2 frequencies are derived from these: [head_dim /
/// 2].
std::vector<double> rope_frequencies(const Rope& rope, int64_t head_dim);
/// cos and sin are multiplied by this.
double rope_magnitude(const Rope& rope);

}  // namespace convoy::model
