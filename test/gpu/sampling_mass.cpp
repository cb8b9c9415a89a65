#include "gpu/sampling_mass.hpp"

#include <boost/test/unit_test.hpp>
#include <cfloat>
#include <cmath>
#include <limits>
#include <random>

using namespace convoy::gpu;
using Wide = unsigned __int128;

namespace {

constexpr Halvings octave = Halvings{1} << halving_bits;
constexpr float infinity = std::numeric_limits<float>::infinity();

/// 2^40 · e^x
long double exact_mass(long double x) { return std::ldexp(std::exp(x), mass_bits); }

#ifdef __SANITIZE_ADDRESS__
constexpr Halvings stride = 61;  // several times slower
#else
constexpr Halvings stride = 1;
#endif

}  // namespace

BOOST_AUTO_TEST_CASE(masses_never_grow_within_an_octave_and_every_octave_is_the_first_shifted) {
  uint64_t before = mass_of(0);
  BOOST_TEST(before == mass_of_best);
  Halvings growing = 0;
  for (Halvings h = stride; h <= octave; h += stride) {
    const uint64_t mass = mass_of(h);
    if (mass >= before) growing = h;
    before = mass;
  }
  BOOST_TEST(growing == 0u);
  std::mt19937 random(3);
  for (int i = 0; i < 20'000; i++) {
    const Halvings h = random() % octave, whole = random() % (mass_bits + 1);
    BOOST_TEST_REQUIRE(mass_of(h + whole * octave) == mass_of(h) >> whole);
  }
  BOOST_TEST(mass_of(octave) == mass_of_best / 2);
}

BOOST_AUTO_TEST_CASE(powers_of_two_are_exact_to_4e_9) {
  for (Halvings h = 0; h <= octave; h += 251) {
    const long double exact = std::ldexp(std::exp2(-static_cast<long double>(h) / octave), mass_bits);
    BOOST_TEST_REQUIRE(std::fabs(static_cast<long double>(mass_of(h)) - exact) < 4e-9L * exact);
  }
}

BOOST_AUTO_TEST_CASE(masses_are_exponentials_within_the_documented_error) {
  std::mt19937 random(4);
  std::uniform_real_distribution<float> logits(-40, 40);
  for (const float temperature : {1.0f, 0.7f, 1.3f, 0.01f, 100.0f})
    for (int i = 0; i < 20'000; i++) {
      const float a = logits(random), b = logits(random), best = std::max(a, b), logit = std::min(a, b);
      const long double x = (static_cast<long double>(logit) - best) / temperature;
      const long double exact = exact_mass(x), error = 1 + (2e-7L + 1.5e-7L * std::fabs(x)) * exact;
      const uint64_t mass = mass_of(halvings_of(logit, best, halvings_scale(temperature)));
      BOOST_TEST_REQUIRE(std::fabs(static_cast<long double>(mass) - exact) < error,
                         "of " << logit << " below " << best << " at " << temperature);
    }
}

BOOST_AUTO_TEST_CASE(masses_never_grow_as_logits_fall) {
  for (const float temperature : {1.0f, 0.3f, 1e-30f, 1e30f})
    for (const float best : {0.0f, 30.0f, 1e-30f, FLT_MAX}) {
      uint64_t before = mass_of_best;
      float logit = best;
      for (int i = 0; i < 5000; i++) {
        const uint64_t mass = mass_of(halvings_of(logit, best, halvings_scale(temperature)));
        BOOST_TEST_REQUIRE(mass <= before);
        before = mass;
        logit = i % 2 ? std::nextafter(logit, -infinity) : logit - std::ldexp(1.0f, i / 20 - 60);
      }
    }
}

BOOST_AUTO_TEST_CASE(extreme_logits_and_temperatures_have_masses_too) {
  const float subnormal = FLT_MIN / 4;
  for (const float temperature : {FLT_MIN / 4, 1e-30f, 1.0f, FLT_MAX}) {
    const float scale = halvings_scale(temperature);
    BOOST_TEST(scale > 0);
    BOOST_TEST(halvings_of(FLT_MAX, FLT_MAX, scale) == 0u);
    BOOST_TEST(halvings_of(-infinity, FLT_MAX, scale) == halvings_none);
    BOOST_TEST(halvings_of(-FLT_MAX, FLT_MAX, scale) == halvings_none);
    // A device that flushes subnormal numbers to zero sees the same.
    BOOST_TEST(halvings_of(0, subnormal, scale) == 0u);
  }
  BOOST_TEST(halvings_of(1, 2, halvings_scale(1e-30f)) == halvings_none);
  BOOST_TEST(mass_of(halvings_max) == 1u);
  BOOST_TEST(mass_of(halvings_max + 1) == 0u);
  BOOST_TEST(mass_of(halvings_none) == 0u);
}

BOOST_AUTO_TEST_CASE(the_last_halvings_with_a_mass_are_found) {
  BOOST_TEST(halvings_within(1) == halvings_max);
  BOOST_TEST(halvings_within(mass_of_best) == 0u);
  std::mt19937_64 random(5);
  for (int i = 0; i < 1000; i++) {
    const uint64_t least = 1 + (random() % mass_of_best >> random() % mass_bits);
    const Halvings within = halvings_within(least);
    BOOST_TEST_REQUIRE(mass_of(within) >= least);
    if (within < halvings_max) BOOST_TEST_REQUIRE(mass_of(within + 1) < least);
  }
}

BOOST_AUTO_TEST_CASE(shares_are_rounded_up_exactly) {
  BOOST_TEST(least_mass(0) == 0u);
  BOOST_TEST(least_mass(1) == mass_of_best);
  BOOST_TEST(least_mass(0.5f) == mass_of_best / 2);
  BOOST_TEST(least_mass(0x1.8p-40f) == 2u);
  BOOST_TEST(least_mass(1e-40f) == 1u);
  BOOST_TEST(share_of(0.5f, 10) == 5u);
  BOOST_TEST(share_of(0.5f, 11) == 6u);
  BOOST_TEST(share_of(1e-30f, 10) == 1u);
  std::mt19937_64 random(6);
  for (int i = 0; i < 20'000; i++) {
    // A float of 24 bits: numerator / 2^shift.
    const uint64_t numerator = 1 + random() % ((1u << 24) - 1), shift = 24 + random() % 17;
    const float share = std::ldexp(static_cast<float>(numerator), -static_cast<int>(shift));
    const uint64_t total = 1 + (random() >> (4 + random() % 50));
    const uint64_t part = share_of(share, total);  // the least with part / total ≥ numerator / 2^shift
    BOOST_TEST_REQUIRE((Wide{part} << shift >= Wide{total} * numerator));
    BOOST_TEST_REQUIRE((Wide{part - 1} << shift < Wide{total} * numerator));
  }
}

BOOST_AUTO_TEST_CASE(a_word_picks_each_unit_equally_often) {
  BOOST_TEST(drawn_unit(0, 7) == 0u);
  BOOST_TEST(drawn_unit(~uint64_t{0}, 7) == 6u);
  for (const uint64_t total : {uint64_t{3}, uint64_t{10}, uint64_t{1} << 60}) {
    const uint64_t half = total / 2, word = static_cast<uint64_t>(((Wide{half} << 64) + total - 1) / total);
    BOOST_TEST(drawn_unit(word, total) == half);
    BOOST_TEST(drawn_unit(word - 1, total) == half - 1);
  }
}

BOOST_AUTO_TEST_CASE(logarithms_are_exact_to_two_units) {
  BOOST_TEST(log_of(mass_of_best) == 0u);
  std::mt19937_64 random(7);
  for (int i = 0; i < 20'000; i++) {
    const uint64_t mass = mass_of_best + (random() >> (4 + random() % 30));
    const long double exact =
        std::ldexp(std::log(std::ldexp(static_cast<long double>(mass), -mass_bits)), 32);
    BOOST_TEST_REQUIRE(std::fabs(static_cast<long double>(log_of(mass)) - exact) < 2);
  }
}
