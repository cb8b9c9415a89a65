#include "model/config.hpp"

#include <algorithm>
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

/// m(s) of the paper's equation 22, as DeepSeek uses it for two different s.
double yarn_magnitude(double factor, double mscale) {
  return factor > 1 ? 0.1 * mscale * std::log(factor) + 1 : 1;
}

/// At which frequency's index a rotation turns `turns` times within the original context.
double yarn_index(double turns, const Rope& rope, int64_t head_dim) {
  const auto context = static_cast<double>(rope.yarn->original_context);
  return static_cast<double>(head_dim) * std::log(context / (turns * 2 * std::numbers::pi)) /
         (2 * std::log(rope.theta));
}

/// Fast rotations are kept, slow ones stretched by `factor`, those between blended along a ramp.
double scale_yarn(double frequency, size_t index, const Rope& rope, int64_t head_dim) {
  const double low = std::max(std::floor(yarn_index(rope.yarn->beta_fast, rope, head_dim)), 0.0);
  double high = std::min(std::ceil(yarn_index(rope.yarn->beta_slow, rope, head_dim)),
                         static_cast<double>(head_dim - 1));
  if (low == high) high += 0.001;  // as the reference avoids the division by 0
  const double stretched = std::clamp((static_cast<double>(index) - low) / (high - low), 0.0, 1.0);
  return stretched * frequency / rope.yarn->factor + (1 - stretched) * frequency;
}

}  // namespace

std::vector<double> rope_frequencies(const Rope& rope, int64_t head_dim) {
  assert(head_dim > 0 && head_dim % 2 == 0);
  assert(rope.frequency_divisors.empty() ||
         static_cast<int64_t>(rope.frequency_divisors.size()) == head_dim / 2);
  std::vector<double> frequencies(static_cast<size_t>(head_dim / 2));
  for (size_t i = 0; i < frequencies.size(); ++i) {
    double frequency = std::pow(rope.theta, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim));
    if (rope.yarn) frequency = scale_yarn(frequency, i, rope, head_dim);
    if (rope.llama3) frequency = scale_llama3(frequency, *rope.llama3);
    if (!rope.frequency_divisors.empty()) frequency /= static_cast<double>(rope.frequency_divisors[i]);
    frequencies[i] = frequency;
  }
  return frequencies;
}

double rope_magnitude(const Rope& rope) {
  if (!rope.yarn) return 1;
  const YarnRope& yarn = *rope.yarn;
  return yarn.attn_factor * yarn_magnitude(yarn.factor, yarn.mscale) /
         yarn_magnitude(yarn.factor, yarn.mscale_all_dim);
}

bool has_experts(const Config& config, int64_t layer) {
  if (!config.moe) return false;
  const Experts& moe = *config.moe;
  return layer >= moe.dense_layers && (layer + 1) % moe.step == 0 &&
         std::ranges::find(moe.dense, layer) == moe.dense.end();
}

std::vector<CacheStream> cache_streams(const Config& config) {
  if (config.latent) return {{config.latent->cached()}};
  const int64_t width = config.kv_heads * config.head_dim;
  return {{width}, {width}};
}

float attention_scale(const Config& config) {
  const int64_t width = config.latent ? config.latent->query() : config.head_dim;
  double scale = 1 / std::sqrt(static_cast<double>(width));
  if (const auto& yarn = config.rope.yarn) {
    const double magnitude = yarn_magnitude(yarn->factor, yarn->mscale_all_dim);
    scale *= magnitude * magnitude;
  }
  return static_cast<float>(scale);
}

namespace {

void check_latent(const LatentAttention& latent, const Config& config, const auto& within,
                  const auto& demand) {
  if (latent.q_rank != 0) within(latent.q_rank, width_max, "the queries' rank");
  within(latent.latent, width_max, "the latent's size");
  for (const int64_t width : {latent.nope, latent.rope, latent.value})
    within(width, head_dim_max, "a part of an attention head");
  demand(latent.rope == config.head_dim, "the rotated part differs from the head's dimension");
  demand(config.heads == config.kv_heads, "latent attention needs as many key-value heads as heads");
  demand(std::isfinite(latent.norm_eps) && latent.norm_eps > 0 && latent.norm_eps < 1,
         "the latent norm's epsilon");
}

void check_experts(const Experts& experts, const Config& config, const auto& within, const auto& demand) {
  const Routing& r = experts.routing;
  within(r.experts, experts_max, "the number of experts");
  within(r.chosen, r.experts, "the number of experts per token");
  within(r.groups, r.experts, "the number of expert groups");
  within(r.groups_chosen, r.groups, "the number of expert groups per token");
  within(experts.width, width_max, "an expert's intermediate size");
  if (experts.shared != 0) within(experts.shared, experts_max, "the number of shared experts");
  within(experts.step, layers_max, "the distance of layers with experts");
  demand(experts.dense.size() <= static_cast<size_t>(layers_max),
         "the list of layers without experts is longer than a model");
  demand(experts.dense_layers >= 0 && experts.dense_layers <= config.layers, "more dense layers than layers");
  demand(r.experts % r.groups == 0, "the experts don't divide into groups");
  const int64_t group = r.experts / r.groups;
  demand(r.chosen <= group * r.groups_chosen, "the chosen groups hold fewer experts than are chosen");
  demand(r.groups == 1 || r.group_score == GroupScore::best || group >= 2, "a group has no two best experts");
  demand(std::isfinite(r.scale) && r.scale > 0, "the experts' scaling factor is " + std::to_string(r.scale));
}

/// Factors that are each a number can still give one that is none.
void check_derived(const Config& config, const auto& demand) {
  const auto is_positive = [](double value) { return std::isfinite(value) && value > 0; };
  demand(std::ranges::all_of(rope_frequencies(config.rope, config.head_dim),
                             [](double frequency) { return std::isfinite(frequency); }),
         "the rotary scaling's factors give frequencies that are not numbers");
  demand(is_positive(rope_magnitude(config.rope)) && is_positive(attention_scale(config)),
         "the rotary scaling's factors give a magnitude that is not a number above 0");
}

}  // namespace

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
  if (const auto& yarn = config.rope.yarn)
    demand(std::isfinite(yarn->factor) && yarn->factor >= 1 && std::isfinite(yarn->beta_fast) &&
               yarn->beta_slow > 0 && yarn->beta_fast > yarn->beta_slow && std::isfinite(yarn->mscale) &&
               std::isfinite(yarn->mscale_all_dim) && yarn->mscale >= 0 && yarn->mscale_all_dim >= 0 &&
               yarn->original_context >= 1 && yarn->original_context <= context_max && config.rope.theta > 1,
           "the yarn rotary scaling's factors don't fit together");
  if (config.latent) check_latent(*config.latent, config, within, demand);
  if (config.moe) check_experts(*config.moe, config, within, demand);
  demand(config.prediction_layers >= 0 && config.prediction_layers <= layers_max,
         "the number of prediction layers is " + std::to_string(config.prediction_layers));
  for (const float divisor : config.rope.frequency_divisors)
    demand(std::isfinite(divisor) && divisor > 0,
           "a rotary frequency is divided by " + std::to_string(divisor));
  check_derived(config, demand);
  const auto is_token = [&](int32_t id) { return id >= 0 && id < config.vocab; };
  demand(config.bos_token == -1 || is_token(config.bos_token),
         "the first token's id " + std::to_string(config.bos_token) + " is not in the vocabulary");
  for (const int32_t id : config.end_tokens)
    demand(is_token(id), "the end token's id " + std::to_string(id) + " is not in the vocabulary");
}

}  // namespace convoy::model
