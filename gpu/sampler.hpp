#pragma once
// From one row of logits to one token: pure functions on the host, used by the CPU backends and as the
// reference of device samplers. A row's result depends on its logits, its parameters and its position alone.
//
// Order: penalties and masked end tokens → temperature → min_p → top_k → top_p, then one draw from what is
// left. Equal logits rank by the lower id. Log-probabilities are of the raw logits. The distribution is made
// of integers (gpu/sampling_mass.hpp, docs/decisions/0013), so that all devices pick the same token.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "gpu/backend.hpp"
#include "gpu/philox.hpp"

namespace convoy::gpu {

/// Part of every Backend::variant(): another name whenever the same logits and seed may give another token.
inline constexpr std::string_view sampling_rule = "integer-masses";

/// Limit of Sampling::top_logprobs (OpenAI's).
inline constexpr uint32_t top_logprobs_max = 20;

/// Whether no value is a NaN or an infinity.
bool all_finite(std::span<const float> values);

/// Of the memory that sample_token works in, aligned to 64 bytes.
size_t sample_scratch_bytes(int64_t vocab);

/// Picks a token; may overwrite the logits ([vocab]). SampledToken's log-probabilities are filled if the row
/// asks for them. With a NaN or an infinity among the logits, or if nothing is left to pick, it has a fault.
SampledToken sample_token(std::span<float> logits, const SampleRow& row, std::byte* scratch);

/// Whether a row's result depends on which tokens its sequence has: whoever starts a sequence behind cached
/// tokens has to say their ids.
bool needs_history(const model::Sampling& sampling);

/// Why the parameters cannot be used with a vocabulary of that size; nothing if they can.
std::optional<std::string> refuse_sampling(const model::Sampling& sampling, int64_t vocab);

}  // namespace convoy::gpu
