#include "gpu/sampler.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

namespace convoy::gpu {
namespace {

using model::Sampling;

constexpr float masked = -std::numeric_limits<float>::infinity();
constexpr float largest_float = std::numeric_limits<float>::max();

struct Candidate {
  int32_t id;
  float logit;
};
bool ranks_before(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

/// Nothing if all are masked.
std::optional<int32_t> arg_max(std::span<const float> logits) {
  constexpr size_t lanes = 16;  // so that the compiler can use vectors
  float largest[lanes];
  std::fill_n(largest, lanes, masked);
  const size_t whole = logits.size() / lanes * lanes;
  for (size_t i = 0; i < whole; i += lanes)
    for (size_t j = 0; j < lanes; j++) largest[j] = logits[i + j] > largest[j] ? logits[i + j] : largest[j];
  for (size_t i = whole; i < logits.size(); i++) largest[0] = std::max(largest[0], logits[i]);
  const float best = *std::max_element(largest, largest + lanes);
  if (best == masked) return std::nullopt;
  return static_cast<int32_t>(std::find(logits.begin(), logits.end(), best) - logits.begin());
}

double log_sum_exp(std::span<const float> logits) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float logit : logits) sum += std::exp(logit - largest);
  return largest + std::log(sum);
}

std::vector<TokenLogprob> top_of(std::span<const float> logits, size_t count, double normalizer) {
  std::vector<Candidate> all(logits.size());
  for (size_t i = 0; i < all.size(); i++) all[i] = {static_cast<int32_t>(i), logits[i]};
  count = std::min(count, all.size());
  std::partial_sort(all.begin(), all.begin() + static_cast<ptrdiff_t>(count), all.end(), ranks_before);
  std::vector<TokenLogprob> top;
  for (size_t i = 0; i < count; i++)
    top.push_back({all[i].id, static_cast<float>(all[i].logit - normalizer)});
  return top;
}

/// Calls use(id, occurrences) once for each id in the vocabulary's range.
template <class F>
void count_tokens(std::vector<int32_t> tokens, size_t vocab, F use) {
  std::sort(tokens.begin(), tokens.end());
  for (size_t i = 0, end; i < tokens.size(); i = end) {
    for (end = i; end < tokens.size() && tokens[end] == tokens[i];) end++;
    if (tokens[i] >= 0 && static_cast<size_t>(tokens[i]) < vocab) use(tokens[i], end - i);
  }
}

void apply_penalties(std::span<float> logits, const SampleRow& row) {
  const Sampling& s = *row.sampling;
  if (s.repetition_penalty != 1.0f) {
    std::vector<int32_t> seen(row.prompt.begin(), row.prompt.end());
    seen.insert(seen.end(), row.output.begin(), row.output.end());
    count_tokens(std::move(seen), logits.size(), [&](int32_t id, size_t) {
      const float logit =
          logits[id] > 0 ? logits[id] / s.repetition_penalty : logits[id] * s.repetition_penalty;
      logits[id] = std::clamp(logit, -largest_float, largest_float);  // two infinities would make a NaN
    });
  }
  if (s.presence_penalty != 0.0f || s.frequency_penalty != 0.0f)
    count_tokens({row.output.begin(), row.output.end()}, logits.size(), [&](int32_t id, size_t count) {
      logits[id] -= s.presence_penalty + s.frequency_penalty * static_cast<float>(count);
    });
}

/// The smallest set of the most likely candidates that holds at least top_p of the mass; first the most
/// likely.
void keep_top_p(std::vector<Candidate>& candidates, std::vector<double>& mass, float top_p) {
  double total = 0;
  for (double m : mass) total += m;
  // A heap, because the set is usually tiny beside the vocabulary.
  const auto later = [](const Candidate& a, const Candidate& b) { return ranks_before(b, a); };
  std::make_heap(candidates.begin(), candidates.end(), later);
  std::vector<Candidate> kept;
  mass.clear();
  for (double sum = 0; !candidates.empty() && (kept.empty() || sum < top_p * total);) {
    std::pop_heap(candidates.begin(), candidates.end(), later);
    kept.push_back(candidates.back());
    candidates.pop_back();
    mass.push_back(std::exp(kept.back().logit));
    sum += mass.back();
  }
  candidates = std::move(kept);
}

/// best: the most likely one.
int32_t draw(std::span<const float> logits, int32_t best, const Sampling& s, uint64_t position) {
  const float best_logit = logits[best];
  // Divided after the subtraction, so that a tiny temperature ends in -inf, never in inf - inf.
  const auto scaled = [&](float logit) { return (logit - best_logit) / s.temperature; };
  const float least = s.min_p > 0 ? std::log(s.min_p) : masked;
  std::vector<Candidate> candidates;
  candidates.reserve(logits.size());
  for (size_t i = 0; i < logits.size(); i++)
    if (const float logit = scaled(logits[i]); logit != masked && logit >= least)
      candidates.push_back({static_cast<int32_t>(i), logit});
  if (s.top_k > 0 && s.top_k < candidates.size()) {
    std::nth_element(candidates.begin(), candidates.begin() + s.top_k, candidates.end(), ranks_before);
    candidates.resize(s.top_k);
    std::sort(candidates.begin(), candidates.end(), ranks_before);
  }
  std::vector<double> mass(candidates.size());
  for (size_t i = 0; i < mass.size(); i++) mass[i] = std::exp(candidates[i].logit);
  if (s.top_p < 1.0f) keep_top_p(candidates, mass, s.top_p);

  double total = 0;
  for (double m : mass) total += m;
  double left = uniform_at(s.seed, position) * total;
  for (size_t i = 0; i < candidates.size(); i++)
    if ((left -= mass[i]) < 0) return candidates[i].id;
  return best;  // rounding took the last candidate's share
}

}  // namespace

bool all_finite(std::span<const float> values) {
  constexpr uint32_t exponent = 0x7f800000;  // all ones in infinities and NaNs alone
  uint32_t bad = 0;
  for (float value : values) bad |= (std::bit_cast<uint32_t>(value) & exponent) == exponent;
  return !bad;
}

SampledToken sample_token(std::span<float> logits, const SampleRow& row) {
  const Sampling& s = *row.sampling;
  SampledToken token;
  if (!all_finite(logits)) {
    token.fault = RowFault::not_finite;
    return token;
  }
  std::vector<float> raw;
  double normalizer = 0;
  if (s.logprobs) {
    raw.assign(logits.begin(), logits.end());
    normalizer = log_sum_exp(raw);
    if (s.top_logprobs > 0) token.top = top_of(raw, s.top_logprobs, normalizer);
  }
  apply_penalties(logits, row);
  if (row.generated < s.min_tokens)
    for (int32_t id : s.end_tokens) logits[id] = masked;
  const auto best = arg_max(logits);
  if (!best) {
    token.fault = RowFault::all_masked;
    return token;
  }
  token.id = s.temperature > 0 ? draw(logits, *best, s, row.position) : *best;
  if (s.logprobs) token.logprob = static_cast<float>(raw[token.id] - normalizer);
  return token;
}

std::optional<std::string> refuse_sampling(const Sampling& s, int64_t vocab) {
  const auto outside = [](const char* name, double value, const char* range) {
    return std::string(name) + " is " + std::to_string(value) + ", not " + range;
  };
  // Written so that a NaN is outside too.
  if (!(s.temperature >= 0 && std::isfinite(s.temperature)))
    return outside("temperature", s.temperature, "a finite number of at least 0");
  if (!(s.top_p > 0 && s.top_p <= 1)) return outside("top_p", s.top_p, "above 0 and at most 1");
  if (!(s.min_p >= 0 && s.min_p <= 1)) return outside("min_p", s.min_p, "from 0 to 1");
  if (!(std::abs(s.presence_penalty) <= 2))
    return outside("presence_penalty", s.presence_penalty, "from -2 to 2");
  if (!(std::abs(s.frequency_penalty) <= 2))
    return outside("frequency_penalty", s.frequency_penalty, "from -2 to 2");
  if (!(s.repetition_penalty > 0 && std::isfinite(s.repetition_penalty)))
    return outside("repetition_penalty", s.repetition_penalty, "a finite number above 0");
  if (s.top_logprobs > top_logprobs_max)
    return outside("top_logprobs", s.top_logprobs, ("at most " + std::to_string(top_logprobs_max)).c_str());
  for (int32_t id : s.end_tokens)
    if (id < 0 || id >= vocab)
      return "end token " + std::to_string(id) + " is not below the vocabulary's size " +
             std::to_string(vocab);
  return std::nullopt;
}

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  constexpr uint64_t multiplier0 = 0xD2511F53, multiplier1 = 0xCD9E8D57;
  constexpr uint32_t weyl0 = 0x9E3779B9, weyl1 = 0xBB67AE85;  // golden ratio, √3 − 1
  for (int round = 0; round < 10; round++) {
    const uint64_t product0 = multiplier0 * counter[0], product1 = multiplier1 * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(product0)};
    key = {key[0] + weyl0, key[1] + weyl1};
  }
  return counter;
}

double uniform_at(uint64_t seed, uint64_t position) {
  const auto words =
      philox4x32({static_cast<uint32_t>(position), static_cast<uint32_t>(position >> 32), 0, 0},
                 {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  const uint64_t bits = static_cast<uint64_t>(words[0]) << 32 | words[1];
  return static_cast<double>(bits >> 11) * 0x1.0p-53;
}

}  // namespace convoy::gpu
