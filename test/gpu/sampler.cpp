#include "gpu/sampler.hpp"

#include <boost/test/unit_test.hpp>
#include <cmath>
#include <limits>
#include <map>
#include <random>
#include <vector>

#include "gpu/cpu/memory.hpp"
#include "test/gpu/tiny_model.hpp"

using namespace convoy::gpu;
using convoy::model::Sampling;

namespace {

SampledToken sampled(std::vector<float> logits, const Sampling& sampling, uint64_t position = 1,
                     std::span<const int32_t> prompt = {}, std::span<const int32_t> output = {}) {
  TokenCounts counts;
  for (const int32_t id : prompt) counts.add(id, TokenCounts::Of::prompt);
  for (const int32_t id : output) counts.add(id, TokenCounts::Of::output);
  const auto vocab = static_cast<int64_t>(logits.size());
  const Buffer scratch = allocate_aligned(sample_scratch_bytes(vocab));
  return sample_token(logits, {&sampling, position, static_cast<uint32_t>(output.size()), &counts},
                      static_cast<std::byte*>(scratch.get()));
}

const std::vector<float> five = {1.0f, 3.0f, 2.5f, -1.0f, 3.0f};

/// Which tokens come out over many positions, and how often.
std::map<int32_t, int> histogram(const std::vector<float>& logits, const Sampling& sampling, int draws) {
  std::map<int32_t, int> counts;
  for (int p = 0; p < draws; p++) counts[sampled(logits, sampling, static_cast<uint64_t>(p)).id]++;
  return counts;
}

}  // namespace

BOOST_AUTO_TEST_CASE(philox_gives_its_published_known_answers) {
  using Words = std::array<uint32_t, 4>;
  const uint32_t ones = 0xffffffff;
  BOOST_TEST((philox4x32({0, 0, 0, 0}, {0, 0}) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  BOOST_TEST((philox4x32({ones, ones, ones, ones}, {ones, ones}) ==
              Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  BOOST_TEST((philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
              Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

BOOST_AUTO_TEST_CASE(greedy_takes_the_lowest_id_of_equal_logits) { BOOST_TEST(sampled(five, {}).id == 1); }

BOOST_AUTO_TEST_CASE(top_k_of_one_equals_greedy) {
  for (uint64_t p = 0; p < 200; p++)
    BOOST_TEST(sampled(five, {.temperature = 1.5f, .top_k = 1, .seed = p}, p).id == 1);
}

BOOST_AUTO_TEST_CASE(a_tiny_temperature_draws_among_the_best_only) {
  for (const auto& [id, count] : histogram(five, {.temperature = 1e-30f}, 200))
    BOOST_TEST((id == 1 || id == 4));
}

BOOST_AUTO_TEST_CASE(frequencies_follow_the_softmax_at_the_temperature) {
  const std::vector<float> logits = {0.0f, 1.0f, -0.5f, 0.3f, 2.0f, -2.0f};
  const uint64_t seed = std::random_device{}();
  BOOST_TEST_MESSAGE("seed " << seed);
  for (float temperature : {0.7f, 1.0f, 2.0f}) {
    double norm = 0;
    for (float l : logits) norm += std::exp(l / temperature);
    const int draws = 20000;
    auto counts = histogram(logits, {.temperature = temperature, .seed = seed}, draws);
    double chi_square = 0;
    for (size_t i = 0; i < logits.size(); i++) {
      const double expected = draws * std::exp(logits[i] / temperature) / norm;
      const double difference = counts[static_cast<int32_t>(i)] - expected;
      chi_square += difference * difference / expected;
    }
    BOOST_TEST(chi_square < 35.9, chi_square << ", seed " << seed);  // 5 degrees of freedom, p = 1e-6
  }
}

BOOST_AUTO_TEST_CASE(every_backend_picks_the_same_tokens_on_any_number_of_threads_and_says_by_which_rule) {
  constexpr int64_t rows = 30, vocab = 3000;
  const auto logits = convoy::gpu::test::TensorMaker(8).values(rows * vocab, 6);
  const Sampling sampling{
      .temperature = 1.3f, .top_k = 500, .top_p = 0.9f, .logprobs = true, .top_logprobs = 2};
  std::vector<SampleRow> sample_rows;
  std::vector<SampledToken> expected;
  for (int64_t r = 0; r < rows; r++) {
    const auto row = logits.begin() + r * vocab;
    sample_rows.push_back({&sampling, static_cast<uint64_t>(r)});
    expected.push_back(sampled({row, row + vocab}, sampling, static_cast<uint64_t>(r)));
  }
  for (const auto& choice : convoy::gpu::test::backends()) BOOST_TEST_CONTEXT(choice.name()) {
      const auto backend = choice.make();
      auto copy = logits;
      std::vector<SampledToken> tokens(rows);
      backend->sample({copy.data(), rows, vocab}, sample_rows, tokens);
      for (size_t r = 0; r < rows; r++) {
        BOOST_TEST(tokens[r].id == expected[r].id);
        BOOST_TEST(tokens[r].logprob == expected[r].logprob);
        BOOST_TEST(tokens[r].top.at(1).logprob == expected[r].top.at(1).logprob);
      }
      BOOST_TEST(backend->variant().find(sampling_rule) != std::string_view::npos);
    }
}

BOOST_AUTO_TEST_CASE(top_k_keeps_the_k_best_and_lower_ids_among_equals) {
  const auto counts = histogram({1, 2, 2, 2, 0}, {.temperature = 1, .top_k = 2}, 500);
  BOOST_TEST(counts.size() == 2u);
  BOOST_TEST(counts.contains(1));
  BOOST_TEST(counts.contains(2));
}

BOOST_AUTO_TEST_CASE(top_p_keeps_the_smallest_set_that_holds_the_mass) {
  // Masses 0.5, 0.3, 0.15, 0.05.
  const std::vector<float> logits = {std::log(0.05f), std::log(0.5f), std::log(0.15f), std::log(0.3f)};
  BOOST_TEST(histogram(logits, {.temperature = 1, .top_p = 0.45f}, 500).size() == 1u);
  const auto two = histogram(logits, {.temperature = 1, .top_p = 0.7f}, 500);
  BOOST_TEST(two.size() == 2u);
  BOOST_TEST((two.contains(1) && two.contains(3)));
  BOOST_TEST(histogram(logits, {.temperature = 1, .top_p = 0.9f}, 500).size() == 3u);
  BOOST_TEST(histogram(logits, {.temperature = 1, .top_p = 1.0f}, 500).size() == 4u);
}

BOOST_AUTO_TEST_CASE(top_p_counts_the_mass_that_top_k_left) {
  // Of the two best, 0.5 and 0.3, the first alone holds 0.625 of their mass.
  const std::vector<float> logits = {std::log(0.05f), std::log(0.5f), std::log(0.15f), std::log(0.3f)};
  BOOST_TEST(histogram(logits, {.temperature = 1, .top_k = 2, .top_p = 0.6f}, 500).size() == 1u);
  BOOST_TEST(histogram(logits, {.temperature = 1, .top_k = 2, .top_p = 0.65f}, 500).size() == 2u);
}

BOOST_AUTO_TEST_CASE(min_p_drops_tokens_far_below_the_best) {
  const std::vector<float> logits = {std::log(0.05f), std::log(0.5f), std::log(0.15f), std::log(0.3f)};
  const auto counts = histogram(logits, {.temperature = 1, .min_p = 0.5f}, 500);
  BOOST_TEST(counts.size() == 2u);
  BOOST_TEST((counts.contains(1) && counts.contains(3)));
}

BOOST_AUTO_TEST_CASE(a_draw_depends_on_seed_and_position_alone) {
  const Sampling sampling{.temperature = 1, .seed = 7};
  int differs_by_position = 0, differs_by_seed = 0;
  for (uint64_t p = 0; p < 100; p++) {
    const int32_t id = sampled(five, sampling, p).id;
    BOOST_TEST(sampled(five, sampling, p).id == id);
    differs_by_position += sampled(five, sampling, p + 1000).id != id;
    differs_by_seed += sampled(five, {.temperature = 1, .seed = 8}, p).id != id;
  }
  BOOST_TEST(differs_by_position > 20);
  BOOST_TEST(differs_by_seed > 20);
}

BOOST_AUTO_TEST_CASE(presence_and_frequency_penalties_count_generated_tokens_only) {
  const std::vector<int32_t> prompt = {1, 1, 1}, once = {1}, twice = {1, 1};
  const std::vector<float> logits = {1.0f, 2.0f};
  BOOST_TEST(sampled(logits, {.presence_penalty = 1.5f}, 1, prompt).id == 1);
  BOOST_TEST(sampled(logits, {.presence_penalty = 1.5f}, 1, prompt, once).id == 0);
  BOOST_TEST(sampled(logits, {.presence_penalty = 0.6f}, 1, prompt, twice).id == 1);
  BOOST_TEST(sampled(logits, {.frequency_penalty = 0.6f}, 1, prompt, once).id == 1);
  BOOST_TEST(sampled(logits, {.frequency_penalty = 0.6f}, 1, prompt, twice).id == 0);
}

BOOST_AUTO_TEST_CASE(repetition_penalty_counts_prompt_and_generated_tokens_once) {
  const std::vector<int32_t> prompt = {1, 1, 1}, output = {2, 2};
  BOOST_TEST(sampled({1.0f, 1.9f, 0.0f}, {.repetition_penalty = 2}, 1, prompt).id == 0);
  BOOST_TEST(sampled({1.0f, 2.1f, 0.0f}, {.repetition_penalty = 2}, 1, prompt).id == 1);
  BOOST_TEST(sampled({1.0f, 0.0f, 1.9f}, {.repetition_penalty = 2}, 1, prompt, output).id == 0);
  // Negative logits move away from zero.
  BOOST_TEST(sampled({-1.5f, -1.0f, -3.0f}, {.repetition_penalty = 2}, 1, prompt).id == 0);
}

BOOST_AUTO_TEST_CASE(end_tokens_wait_for_min_tokens) {
  const std::vector<int32_t> none, two = {0, 0};
  const Sampling sampling{.min_tokens = 2, .end_tokens = {1, 4}};
  BOOST_TEST(sampled(five, sampling, 1, none, none).id == 2);
  BOOST_TEST(sampled(five, sampling, 1, none, two).id == 1);
}

BOOST_AUTO_TEST_CASE(logprobs_are_of_the_raw_distribution) {
  const std::vector<int32_t> output = {1};
  const Sampling sampling{.presence_penalty = 2, .logprobs = true, .top_logprobs = 3};
  const SampledToken token = sampled(five, sampling, 1, {}, output);
  double norm = 0;
  for (float l : five) norm += std::exp(l);
  BOOST_TEST(token.id == 4);
  BOOST_TEST(token.logprob == 3.0 - std::log(norm), boost::test_tools::tolerance(1e-6));
  BOOST_REQUIRE(token.top.size() == 3u);
  BOOST_TEST(token.top[0].id == 1);
  BOOST_TEST(token.top[1].id == 4);
  BOOST_TEST(token.top[2].id == 2);
  BOOST_TEST(token.top[2].logprob == 2.5 - std::log(norm), boost::test_tools::tolerance(1e-6));
  BOOST_TEST(sampled(five, {}).top.empty());
}

BOOST_AUTO_TEST_CASE(logprobs_of_large_vocabularies_are_exact_to_4e_6) {
  for (const float spread : {0.1f, 3.0f, 20.0f}) {
    std::mt19937 random(12);
    std::normal_distribution<float> normal(0, spread);
    std::vector<float> logits(49'152);
    for (float& logit : logits) logit = normal(random);
    long double sum = 0;
    for (const float logit : logits) sum += std::exp(static_cast<long double>(logit));
    const SampledToken token = sampled(logits, {.temperature = 1, .logprobs = true, .top_logprobs = 20});
    const auto exact = [&](int32_t id) {
      return static_cast<double>(logits[static_cast<size_t>(id)] - std::log(sum));
    };
    BOOST_TEST(std::abs(token.logprob - exact(token.id)) < 4e-6);
    for (const TokenLogprob& top : token.top) BOOST_TEST(std::abs(top.logprob - exact(top.id)) < 4e-6);
  }
}

BOOST_AUTO_TEST_CASE(logits_that_are_not_finite_are_a_fault_and_never_a_token) {
  for (float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                    -std::numeric_limits<float>::infinity()})
    for (float temperature : {0.0f, 1.0f}) {
      const SampledToken token = sampled({1.0f, bad, 2.0f}, {.temperature = temperature, .logprobs = true});
      BOOST_TEST((token.fault == RowFault::not_finite));
      BOOST_TEST(token.id == 0);
    }
  BOOST_TEST((sampled({1, 2}, {}).fault == RowFault::none));
}

BOOST_AUTO_TEST_CASE(nothing_left_to_pick_is_a_fault) {
  for (float temperature : {0.0f, 1.0f})
    BOOST_TEST((sampled({1, 2}, {.temperature = temperature, .min_tokens = 1, .end_tokens = {0, 1}}).fault ==
                RowFault::all_masked));
}

BOOST_AUTO_TEST_CASE(an_absurd_repetition_penalty_still_gives_a_token) {
  const std::vector<int32_t> prompt = {0, 1};
  const Sampling sampling{.temperature = 1, .repetition_penalty = 1e-38f};
  BOOST_TEST(sampled({100, 200, -5}, sampling, 1, prompt).id <= 1);
}

BOOST_AUTO_TEST_CASE(parameters_out_of_range_are_refused_by_name) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto refused = [](const Sampling& s, const char* name) {
    const auto why = refuse_sampling(s, 10);
    BOOST_TEST(why.has_value(), name);
    if (why) BOOST_TEST(why->find(name) != std::string::npos, *why);
  };
  BOOST_TEST(!refuse_sampling({}, 10).has_value());
  refused({.temperature = -1}, "temperature");
  refused({.temperature = nan}, "temperature");
  refused({.top_p = 0}, "top_p");
  refused({.top_p = 1.01f}, "top_p");
  refused({.min_p = nan}, "min_p");
  refused({.presence_penalty = 2.1f}, "presence_penalty");
  refused({.frequency_penalty = nan}, "frequency_penalty");
  refused({.repetition_penalty = 0}, "repetition_penalty");
  refused({.top_logprobs = top_logprobs_max + 1}, "top_logprobs");
  refused({.end_tokens = {10}}, "end token 10");
}
