#pragma once
// What a checkpoint says about its architecture, read from config.json or a GGUF's metadata. Families differ
// by data here, not by a class each: the forward pass reads this description.

#include <cstdint>
#include <filesystem>
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

struct Rope {
  double theta = 10000.0;
  RopePairs pairs = RopePairs::half_split;
  std::optional<Llama3Rope> llama3;
  /// GGUF carries the llama3 scaling as factors per frequency (rope_freqs.weight) that divide it; empty:
  /// none.
  std::vector<float> frequency_divisors;
};

struct Config {
  std::string architecture;  // "llama" or "qwen2"
  int64_t layers = 0, hidden = 0, intermediate = 0, vocab = 0;
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  int64_t context = 0;  // positions
  double rms_eps = 0;
  bool qkv_bias = false;
  bool tied_head = false;
  Rope rope;
  std::vector<int32_t> end_tokens;  // generation ends at any of these; may be empty
  int32_t bos_token = -1;           // −1: none
};

/// Limits on what a configuration may ask for; no published model comes near them.
inline constexpr int64_t layers_max = 4096, heads_max = 4096, head_dim_max = 4096;
inline constexpr int64_t width_max = 1 << 20;  // hidden, intermediate
inline constexpr int64_t vocab_max = 1 << 24, context_max = 1 << 24;

/// Reads a Hugging Face config.json, and the end tokens of a generation_config.json beside it. Throws
/// InputError that names the field. An architecture, or a field that would change the result and is not
/// understood, is an error, never a guess. Fields that the reference implementation of the architecture never
/// reads are ignored here too.
Config read_config_json(const std::filesystem::path& file);
/// The same over text (generation empty: no such file); `where` names the file in messages.
Config parse_config_json(std::string_view text, std::string_view generation, const std::string& where);

/// Checks that the numbers are within the limits and fit together, whatever file they came from. Throws
/// InputError.
void check_config(const Config& config, const std::string& where);

/// cos and sin of position·frequency for each of head_dim/2 frequencies are derived from these: [head_dim /
/// 2].
std::vector<double> rope_frequencies(const Rope& rope, int64_t head_dim);

}  // namespace convoy::model
