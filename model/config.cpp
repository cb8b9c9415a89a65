#include "model/config.hpp"

#include <cassert>
#include <cmath>
#include <numbers>

#include "model/error.hpp"

namespace convoy::model {

namespace {

/// Long wavelengths are stretched by `factor`, short ones kept, those between blended.
double scale_llama3(double frequency, const Llama3Rope& scaling) {
  const auto context = static_cast<double>(scaling.original_context);
  const double wavelength = 2 * std::numbers::pi / frequency;
  if (wavelength > context / scaling.low_freq_factor) return frequency / scaling.factor;
  if (wavelength < context / scaling.high_freq_factor) return frequency;
  const double kept =
      (context / wavelength - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor);
  return (1 - kept) * frequency / scaling.factor + kept * frequency;
}

}  // namespace

std::vector<double> rope_frequencies(const Rope& rope, int64_t head_dim) {
  assert(head_dim > 0 && head_dim % 2 == 0);
  assert(rope.frequency_divisors.empty() ||
         static_cast<int64_t>(rope.frequency_divisors.size()) == head_dim / 2);
  std::vector<double> frequencies(static_cast<size_t>(head_dim / 2));
  for (size_t i = 0; i < frequencies.size(); ++i) {
    double frequency = std::pow(rope.theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
    if (rope.llama3) frequency = scale_llama3(frequency, *rope.llama3);
    if (!rope.frequency_divisors.empty()) frequency /= static_cast<double>(rope.frequency_divisors[i]);
    frequencies[i] = frequency;
  }
  return frequencies;
}

void check_config(const Config& config, const std::string& where) {
  const std::string mend = "the checkpoint's configuration is damaged or not one that Convoy runs";
  const auto within = [&](int64_t value, int64_t max, const char* what) {
    if (value < 1 || value > max)
      throw InputError(std::string(what) + " is " + std::to_string(value) + "; from 1 to " +
                           std::to_string(max) + " is allowed",
                       where, mend);
  };
  within(config.layers, layers_max, "the number of layers");
  within(config.hidden, width_max, "the hidden size");
  within(config.intermediate, width_max, "the intermediate size");
  within(config.vocab, vocab_max, "the vocabulary's size");
  within(config.heads, heads_max, "the number of attention heads");
  within(config.kv_heads, heads_max, "the number of key-value heads");
  within(config.head_dim, head_dim_max, "the head's dimension");
  within(config.context, context_max, "the context length");
  const auto demand = [&](bool holds, const std::string& what) {
    if (!holds) throw InputError(what, where, mend);
  };
  demand(config.heads % config.kv_heads == 0, std::to_string(config.heads) +
                                                  " attention heads don't divide among " +
                                                  std::to_string(config.kv_heads) + " key-value heads");
  demand(config.head_dim % 2 == 0, "the head's dimension " + std::to_string(config.head_dim) + " is odd");
  demand(std::isfinite(config.rms_eps) && config.rms_eps > 0 && config.rms_eps < 1,
         "the norm's epsilon is " + std::to_string(config.rms_eps));
  demand(std::isfinite(config.rope.theta) && config.rope.theta >= 1,
         "the rotary base is " + std::to_string(config.rope.theta));
  if (const auto& scaling = config.rope.llama3)
    demand(std::isfinite(scaling->factor) && scaling->factor >= 1 &&
               std::isfinite(scaling->high_freq_factor) && scaling->low_freq_factor > 0 &&
               scaling->high_freq_factor > scaling->low_freq_factor && scaling->original_context >= 1 &&
               scaling->original_context <= context_max,
           "the llama3 rotary scaling's factors don't fit together");
  for (const float divisor : config.rope.frequency_divisors)
    demand(std::isfinite(divisor) && divisor > 0,
           "a rotary frequency is divided by " + std::to_string(divisor));
  const auto is_token = [&](int32_t id) { return id >= 0 && id < config.vocab; };
  demand(config.bos_token == -1 || is_token(config.bos_token),
         "the first token's id " + std::to_string(config.bos_token) + " is not in the vocabulary");
  for (const int32_t id : config.end_tokens)
    demand(is_token(id), "the end token's id " + std::to_string(id) + " is not in the vocabulary");
}

}  // namespace convoy::model
