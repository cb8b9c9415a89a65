#pragma once
// From one row of logits to one token: pure functions on the host, used by the CPU backends and as the
// reference of device samplers. A row's result depends on its logits, its parameters and its position alone.
//
// Order: penalties and masked end tokens → temperature → min_p → top_k → top_p, then one draw from what is
// left. Equal logits rank by the lower id. Log-probabilities are of the raw logits.

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "gpu/backend.hpp"

namespace convoy::gpu {

/// Limit of Sampling::top_logprobs (OpenAI's).
inline constexpr uint32_t top_logprobs_max = 20;

/// Whether no value is a NaN or an infinity.
bool all_finite(std::span<const float> values);

/// Picks a token; may overwrite the logits ([vocab]). SampledToken's log-probabilities are filled if the row
/// asks for them. With a NaN or an infinity among the logits, or if nothing is left to pick, it has a fault.
SampledToken sample_token(std::span<float> logits, const SampleRow& row);

/// Why the parameters cannot be used with a vocabulary of that size; nothing if they can.
std::optional<std::string> refuse_sampling(const model::Sampling& sampling, int64_t vocab);

/// Philox4x32-10: four random words of a counter and a key (Salmon, Moraes, Dror, Shaw: "Parallel random
/// numbers: as easy as 1, 2, 3", SC 2011).
std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

/// Uniform in [0, 1), decided by seed and position alone.
double uniform_at(uint64_t seed, uint64_t position);

}  // namespace convoy::gpu
