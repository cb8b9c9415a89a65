#pragma once
// What a checkpoint says about its architecture, read from config.json or a GGUF's metadata. Families differ by data
// here, not by a class each: the forward pass reads this description.

#include <boost/json/fwd.hpp>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace convoy::model {

/// Which elements of a head are rotated together: half_split pairs (i, i + d/2), interleaved pairs (2i, 2i + 1).
/// GGUF files of `llama` store Q and K permuted so that interleaved pairs give what half_split gives on the original.
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
  /// GGUF carries the llama3 scaling as factors per frequency (rope_freqs.weight) that divide it; empty: none.
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

/// Reads a Hugging Face config.json. Throws InputError that names the field.
/// An architecture, or a field that would change the result and is not understood, is an error, never a guess.
Config read_config_json(const std::filesystem::path& file);

/// cos and sin of position·frequency for each of head_dim/2 frequencies are derived from these: [head_dim / 2].
std::vector<double> rope_frequencies(const Rope& rope, int64_t head_dim);

}  // namespace convoy::model
