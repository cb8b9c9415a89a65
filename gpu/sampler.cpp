#include "gpu/sampler.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <optional>

#include "gpu/cpu/vector_clones.hpp"
#include "gpu/mass_row.hpp"
#include "gpu/sampling_mass.hpp"

namespace convoy::gpu {
namespace {

using model::Sampling;

static_assert(model::vocab_max <= mass_tokens_max);

constexpr float masked = -std::numeric_limits<float>::infinity();
constexpr float largest_float = std::numeric_limits<float>::max();

// Loops of several numbers side by side, so that the compiler can use vectors.

[[gnu::always_inline]] inline float largest_of(std::span<const float> values) {
  constexpr size_t lanes = 16;
  float largest[lanes];
  std::fill_n(largest, lanes, masked);
  const size_t whole = values.size() / lanes * lanes;
  for (size_t i = 0; i < whole; i += lanes)
    for (size_t j = 0; j < lanes; j++) largest[j] = values[i + j] > largest[j] ? values[i + j] : largest[j];
  for (size_t i = whole; i < values.size(); i++) largest[0] = std::max(largest[0], values[i]);
  return *std::max_element(largest, largest + lanes);
}

[[gnu::always_inline]] inline bool finite(std::span<const float> values) {
  constexpr uint32_t exponent = 0x7f800000;  // all ones in infinities and NaNs alone
  uint32_t bad = 0;
  for (const float value : values) bad |= (std::bit_cast<uint32_t>(value) & exponent) == exponent;
  return !bad;
}

struct Scan {
  std::optional<int32_t> best;  // the first of the largest; nothing if all are masked
  bool finite = true;
};

/// Goes through memory once: a row is more than the first cache holds.
CONVOY_VECTOR_CLONES
Scan scan(std::span<const float> logits) {
  constexpr size_t together = 1024;
  float best = masked;
  std::span<const float> with_best;
  Scan result;
  for (size_t first = 0; first < logits.size(); first += together) {
    const auto part = logits.subspan(first, std::min(together, logits.size() - first));
    result.finite &= finite(part);
    if (const float largest = largest_of(part); largest > best) best = largest, with_best = part;
  }
  if (best > masked)
    result.best = static_cast<int32_t>(&*std::find(with_best.begin(), with_best.end(), best) - logits.data());
  return result;
}

/// Of raw logits: where log-probabilities are measured from.
struct Normalizer {
  float best = 0;
  uint64_t log_total = 0;  // ln(Σ e^(logit − best)), in units of 2^-32

  /// Both differences are of float64, and a product with 2^-32 is exact, fused or not.
  float logprob(float logit) const {
    const double below = static_cast<double>(logit) - static_cast<double>(best);
    return static_cast<float>(below - static_cast<double>(log_total) * 0x1p-32);
  }
};

/// As often as the row knows of: without the step's tokens that come after it.
uint32_t seen(uint32_t count, std::span<const int32_t> later, int32_t id) {
  if (later.empty()) return count;
  return count - std::min(count, static_cast<uint32_t>(std::count(later.begin(), later.end(), id)));
}

/// Each product and sum is rounded by itself on every device: nothing here may be fused (CMakeLists.txt).
void apply_penalties(std::span<float> logits, const SampleRow& row) {
  const Sampling& s = *row.sampling;
  if (!s.penalized()) return;
  for (const TokenCounts::Count& count : row.counts->counts()) {
    if (count.id < 0 || static_cast<size_t>(count.id) >= logits.size()) continue;
    float& logit = logits[count.id];
    const uint32_t prompt = seen(count.prompt, row.later_prompt, count.id);
    const uint32_t output = seen(count.output, row.later_output, count.id);
    if (s.repetition_penalty != 1.0f && prompt + output > 0) {
      const float moved = logit > 0 ? logit / s.repetition_penalty : logit * s.repetition_penalty;
      logit = std::clamp(moved, -largest_float, largest_float);  // two infinities would make a NaN
    }
    if (output > 0) logit -= s.presence_penalty + s.frequency_penalty * static_cast<float>(output);
  }
}

/// best: the largest logit.
int32_t draw(std::span<const float> logits, float best, const Sampling& s, uint64_t position,
             std::byte* scratch) {
  MassRow row(logits, scratch);
  row.fill(best, halvings_scale(s.temperature),
           s.min_p > 0 ? halvings_within(least_mass(s.min_p)) : halvings_max);
  if (s.top_k > 0 && s.top_k < logits.size()) row.keep_first(s.top_k);
  if (s.top_p < 1.0f) row.keep_share(s.top_p);
  return row.draw(random_word(s.seed, position));
}

}  // namespace

bool all_finite(std::span<const float> values) { return scan(values).finite; }

size_t sample_scratch_bytes(int64_t vocab) {
  return MassRow::bytes(vocab) + static_cast<size_t>(vocab) * sizeof(float);
}

SampledToken sample_token(std::span<float> logits, const SampleRow& row, std::byte* scratch) {
  const Sampling& s = *row.sampling;
  SampledToken token;
  Scan scanned = scan(logits);
  if (!scanned.finite) {
    token.fault = RowFault::not_finite;
    return token;
  }
  std::span<const float> raw;
  Normalizer normalizer;
  if (s.logprobs) {
    auto* const kept =
        reinterpret_cast<float*>(scratch + MassRow::bytes(static_cast<int64_t>(logits.size())));
    std::copy(logits.begin(), logits.end(), kept);
    raw = {kept, logits.size()};
    MassRow masses(raw, scratch);
    normalizer.best = raw[*scanned.best];
    masses.fill(normalizer.best, halvings_scale(1));
    normalizer.log_total = log_of(masses.total());
    if (s.top_logprobs > 0)
      for (int32_t id : masses.ranked(s.top_logprobs)) token.top.push_back({id, normalizer.logprob(raw[id])});
  }
  apply_penalties(logits, row);
  const bool masks = row.generated < s.min_tokens && !s.end_tokens.empty();
  if (masks)
    for (int32_t id : s.end_tokens) logits[id] = masked;
  if (masks || s.penalized()) scanned = scan(logits);
  const auto best = scanned.best;
  if (!best) {
    token.fault = RowFault::all_masked;
    return token;
  }
  token.id = s.temperature > 0 ? draw(logits, logits[*best], s, row.position, scratch) : *best;
  if (s.logprobs) token.logprob = normalizer.logprob(raw[token.id]);
  return token;
}

bool needs_history(const Sampling& sampling) { return sampling.penalized(); }

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

}  // namespace convoy::gpu
