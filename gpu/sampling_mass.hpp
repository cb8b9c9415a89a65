#pragma once
// The arithmetic of sampling: a token's share of the distribution as an integer mass. Samplers of every
// device are made of these functions, on any thread; nothing here depends on order, vectors, libm or compiler
// flags.
//
// A logit becomes the number of halvings between the best token's mass and its own, in units of 2^-24:
//   halvings = trunc((best − logit) · (log2(e) · 2^24 / temperature)),  mass = floor(2^40 · 2^-halvings)
// Only the first line is in floating point. It is one subtraction, one multiplication, one minimum and one
// conversion: IEEE 754 gives each of them one result, and (a − b) · c holds nothing that a compiler could
// contract to a fused operation. Subnormal numbers do not show: what they scale to counts as 0 halvings
// whether a device keeps or flushes them. All the rest are additions, products and shifts of unsigned
// integers.
//
// Of the float x = (logit − best) / temperature, in [−27.7, 0]: |mass − 2^40·e^x| < 1 + (2e-7 + 1.5e-7·|x|) ·
// 2^40·e^x. Masses never grow as logits fall. Below −40·ln 2 = −27.7 they are 0, and the best token's is
// 2^40, so that the sum of 2^20 tokens' is at most 2^60 and exact in any order.

#include <cstdint>

namespace convoy::gpu {

using Halvings = uint32_t;
inline constexpr int halving_bits = 24;
inline constexpr int mass_bits = 40;
inline constexpr uint64_t mass_of_best = uint64_t{1} << mass_bits;
/// The last that has a mass, and what all that have none become.
inline constexpr Halvings halvings_max = Halvings{mass_bits} << halving_bits;
inline constexpr Halvings halvings_none = Halvings{mass_bits + 1} << halving_bits;
/// Sums of more tokens' masses could overflow.
inline constexpr int64_t mass_tokens_max = int64_t{1} << 20;

/// The upper half of a 128-bit product.
constexpr uint64_t multiply_high(uint64_t a, uint64_t b) {
  return static_cast<uint64_t>(static_cast<unsigned __int128>(a) * b >> 64);
}

/// The same of a 64-bit one: what vectors of 32-bit numbers have an instruction for, and 64-bit products not.
[[gnu::always_inline]] constexpr uint32_t multiply_high(uint32_t a, uint32_t b) {
  return static_cast<uint32_t>(uint64_t{a} * b >> 32);
}

/// By which halvings_of multiplies; temperature > 0. So bounded that 0 stays 0 and subnormal differences
/// become it: temperatures below 2^-35 count as that.
constexpr float halvings_scale(float temperature) {
  constexpr float octave = 24204406.0f;  // log2(e) · 2^24
  constexpr float scale_max = 0x1p60f;
  const float scale = octave / temperature;
  return scale < scale_max ? scale : scale_max;
}

/// best ≥ logit; a logit of −∞ has no mass.
[[gnu::always_inline]] constexpr Halvings halvings_of(float logit, float best, float scale) {
  constexpr float none = halvings_none;
  const float halvings = (best - logit) * scale;
  return static_cast<Halvings>(static_cast<int32_t>(halvings < none ? halvings : none));
}

/// 2^-g = 1 − g·(c1 − g·(c2 − …)) in [0, 1), of least relative error (2.3e-9) among those that are exact at
/// both ends. g and c in units of 2^-32; each product rounds down by less than one unit.
inline constexpr uint32_t power_c1 = 2977043938, power_c2 = 1031755254, power_c3 = 238328247,
                          power_c4 = 41136399, power_c5 = 5469349, power_c6 = 466233;

/// halvings ≤ halvings_none
[[gnu::always_inline]] constexpr uint64_t mass_of(Halvings halvings) {
  const uint32_t g = halvings << (32 - halving_bits);
  uint32_t c = power_c6;
  c = power_c5 - multiply_high(g, c);
  c = power_c4 - multiply_high(g, c);
  c = power_c3 - multiply_high(g, c);
  c = power_c2 - multiply_high(g, c);
  c = power_c1 - multiply_high(g, c);
  const uint64_t power = (uint64_t{1} << 32) - multiply_high(g, c);
  return power << (mass_bits - 32) >> (halvings >> halving_bits);
}

/// The most halvings that leave a mass of at least `least`, in [1, mass_of_best].
constexpr Halvings halvings_within(uint64_t least) {
  Halvings within = 0;
  for (Halvings step = Halvings{1} << 29; step > 0; step >>= 1)
    if (within + step <= halvings_max && mass_of(within + step) >= least) within += step;
  return within;
}

/// The least mass that is at least `share` of the best token's; share in [0, 1].
constexpr uint64_t least_mass(float share) {
  const float mass = share * static_cast<float>(mass_of_best);  // exact: a power of two
  const auto below = static_cast<uint64_t>(mass);
  return below + (static_cast<float>(below) < mass ? 1 : 0);
}

/// The least integer above 0 that is at least `share` of `total`, for a share in (0, 1): exact down to 2^-40,
/// below that the share is rounded down to units of 2^-64.
constexpr uint64_t share_of(float share, uint64_t total) {
  const auto parts = static_cast<uint64_t>(share * 0x1p64f);
  const uint64_t below = multiply_high(parts, total);
  return below + (parts * total != 0 || below == 0 ? 1 : 0);  // the lower half of the product rounds up
}

/// Which of `total` units of mass the random word picks, counted from 0.
constexpr uint64_t drawn_unit(uint64_t word, uint64_t total) { return multiply_high(word, total); }

/// ln(mass / mass_of_best) in units of 2^-32, to 2 of them; mass ≥ mass_of_best. A bit of the base-2
/// logarithm for each squaring.
constexpr uint64_t log_of(uint64_t mass) {
  constexpr uint64_t ln2 = 0xB17217F7D1CF79AB;   // · 2^64
  const int whole = 63 - __builtin_clzll(mass);  // nvcc 13 makes 64 of std::countl_zero, always
  uint64_t mantissa = mass << (63 - whole);      // in [1, 2), in units of 2^-63
  uint64_t log2 = static_cast<uint64_t>(whole - mass_bits);
  for (int bit = 0; bit < 32; bit++) {
    mantissa = multiply_high(mantissa, mantissa);  // in [1, 4), in units of 2^-62
    const bool at_least_2 = mantissa >> 63;
    log2 = log2 << 1 | (at_least_2 ? 1 : 0);
    if (!at_least_2) mantissa <<= 1;
  }
  return multiply_high(log2, ln2);
}

}  // namespace convoy::gpu
