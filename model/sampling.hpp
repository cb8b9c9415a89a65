#pragma once
// Sampling parameters of one request, as they travel to the last stage.

#include <cstdint>
#include <vector>

namespace convoy::model {

struct Sampling {
  float temperature = 0;  // 0: greedy
  uint32_t top_k = 0;     // 0: all
  float top_p = 1, min_p = 0;
  float presence_penalty = 0, frequency_penalty = 0;  // over generated tokens, as OpenAI defines them
  float repetition_penalty = 1;                       // over prompt and generated tokens (arXiv 1909.05858)
  uint64_t seed = 0;
  bool logprobs = false;
  uint32_t top_logprobs = 0;
  uint32_t min_tokens = 0;  // end tokens are masked before that many were sampled
  std::vector<int32_t> end_tokens;

  /// Whether it matters how often the sequence has each token.
  bool penalized() const {
    return presence_penalty != 0 || frequency_penalty != 0 || repetition_penalty != 1;
  }
};

}  // namespace convoy::model
