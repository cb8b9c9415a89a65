// Which layers stages have, by what a layer takes them and what their memory holds.

#include "actors/balance.hpp"

#include <boost/test/unit_test.hpp>
#include <random>

using namespace convoy;
using namespace convoy::actors;

namespace {

using Counts = std::vector<int64_t>;

/// One stage a machine, of these speeds.
std::vector<StageOffer> machines(const std::vector<double>& layer_us,
                                 const std::vector<uint64_t>& memory = {}) {
  std::vector<StageOffer> offers;
  for (size_t i = 0; i < layer_us.size(); ++i) {
    const std::string name = "m" + std::to_string(i);
    offers.push_back({.name = {name, 0},
                      .machine = name,
                      .memory_bytes = i < memory.size() ? memory[i] : 0,
                      .layer_us = layer_us[i]});
  }
  return offers;
}

/// 0: left out.
Counts counts(const Balance& balance) {
  Counts counts;
  for (const auto& range : balance) counts.push_back(range ? range->count() : 0);
  return counts;
}

Counts balanced(const LayerCosts& costs, const std::vector<StageOffer>& offers) {
  return counts(balance(costs, offers));
}

}  // namespace

BOOST_AUTO_TEST_CASE(layers_go_by_speed) {
  BOOST_TEST(balanced({.layers = 30}, machines({10, 20})) == Counts({20, 10}),
             boost::test_tools::per_element());
  BOOST_TEST(balanced({.layers = 28}, machines({5, 5, 10, 10})) == Counts({9, 10, 4, 5}),
             boost::test_tools::per_element());
  // Half of the head counts, as 8 of the layers: 30 + 4 over three parts.
  BOOST_TEST(balanced({.layers = 30, .head_layers = 8}, machines({20, 10})) == Counts({11, 19}),
             boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(who_is_not_measured_is_as_fast_as_the_others) {
  auto offers = machines({0, 10, 30});
  pool_speeds(offers);
  BOOST_TEST(offers[0].layer_us == 20);
  offers = machines({0, 0});
  pool_speeds(offers);
  BOOST_TEST(balanced({.layers = 4}, offers) == Counts({2, 2}), boost::test_tools::per_element());
  BOOST_TEST(slowest_us({.layers = 4}, offers, balance({.layers = 4}, offers)) == 0);
}

BOOST_AUTO_TEST_CASE(stages_of_one_place_are_equally_fast) {
  auto offers = machines({10, 14, 0, 50});
  offers[1].machine = offers[2].machine = offers[0].machine;
  pool_speeds(offers);
  BOOST_TEST(offers[0].layer_us == 12);
  BOOST_TEST(offers[2].layer_us == 12);
  BOOST_TEST(offers[3].layer_us == 50);
  offers[2].card = "a card";
  offers[2].layer_us = 0;
  pool_speeds(offers);
  BOOST_TEST(offers[2].layer_us == 31);  // as the two places are on average
}

BOOST_AUTO_TEST_CASE(who_would_only_slow_the_others_is_left_out) {
  // A card, and a processor that takes as long for one layer as the card for forty.
  BOOST_TEST(balanced({.layers = 28}, machines({25, 1000})) == Counts({28, 0}),
             boost::test_tools::per_element());
  BOOST_TEST(balanced({.layers = 28}, machines({1000, 25, 900, 25})) == Counts({0, 14, 0, 14}),
             boost::test_tools::per_element());
  // For two layers of forty it is of use.
  BOOST_TEST(balanced({.layers = 40}, machines({25, 500})) == Counts({38, 2}),
             boost::test_tools::per_element());
  // Or where the others have no room: 20 layers on the card.
  const LayerCosts costs{.layers = 28, .layer_bytes = 10};
  BOOST_TEST(balanced(costs, machines({25, 1000}, {200, 1000})) == Counts({20, 8}),
             boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(memory_bounds_what_a_stage_has) {
  const LayerCosts costs{.layers = 30, .layer_bytes = 10, .first_bytes = 25, .last_bytes = 40};
  // 10 layers fit beside the embedding.
  BOOST_TEST(balanced(costs, machines({10, 10}, {125, 1000})) == Counts({10, 20}),
             boost::test_tools::per_element());
  BOOST_TEST(balanced(costs, machines({10, 10, 10}, {1000, 1000, 90})) == Counts({13, 12, 5}),
             boost::test_tools::per_element());
  // Two stages of one machine divide its memory.
  auto offers = machines({10, 10, 10}, {100, 100, 1000});
  offers[1].machine = offers[0].machine;
  BOOST_TEST(balanced(costs, offers) == Counts({2, 5, 23}), boost::test_tools::per_element());
  // Too little together: whoever refuses the plan says so.
  BOOST_TEST(balanced(costs, machines({10, 10}, {100, 100})) == Counts({15, 15}),
             boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(a_step_takes_what_its_layers_do) {
  const LayerCosts costs{.layers = 10, .head_layers = 4};
  const auto offers = machines({10, 20});
  const Balance layers{model::LayerRange{0, 6}, model::LayerRange{7, 9}};
  BOOST_TEST(slowest_us(costs, offers, layers) == 100);  // three layers, and two for the head
  BOOST_TEST(whole_us(costs, offers, layers) == 170);
}

BOOST_AUTO_TEST_CASE(all_layers_are_somewhere_once_whatever_the_offers) {
  std::mt19937_64 random(1);
  const auto draw = [&](uint64_t most) { return random() % (most + 1); };
  uint64_t left_out = 0, bounded = 0;
  for (int round = 0; round < 20'000; ++round) {
    const auto stages = 1 + draw(7);
    const LayerCosts costs{.layers = static_cast<int64_t>(stages + draw(60)),
                           .head_layers = static_cast<double>(draw(12)),
                           .layer_bytes = draw(1) * 100,
                           .first_bytes = draw(300),
                           .last_bytes = draw(300)};
    std::vector<double> us;
    std::vector<uint64_t> memory;
    uint64_t room = 0;
    for (uint64_t i = 0; i < stages; ++i) {
      us.push_back(static_cast<double>(draw(9) == 0 ? 1000 : 1 + draw(40)));
      memory.push_back(draw(3) == 0 ? 0 : 400 + draw(6'000));
      room += memory.back() == 0 ? 1'000'000 : memory.back();
    }
    const auto offers = machines(us, memory);
    const Balance layers = balance(costs, offers);
    BOOST_REQUIRE_EQUAL(layers.size(), stages);
    int64_t next = 0;
    for (const auto& range : layers) {
      if (!range) {
        ++left_out;
        continue;
      }
      BOOST_REQUIRE_EQUAL(range->first, next);
      BOOST_REQUIRE_GE(range->count(), 1);
      next = range->last + 1;
    }
    BOOST_REQUIRE_EQUAL(next, costs.layers);
    // Nobody has more than fits, if all have room for more than twice the model.
    if (costs.layer_bytes == 0 || room < 2 * static_cast<uint64_t>(costs.layers) * 100 + 600 * stages)
      continue;
    for (uint64_t i = 0; i < stages; ++i)
      if (layers[i] && memory[i] > 0) {
        ++bounded;
        BOOST_REQUIRE_LE(static_cast<uint64_t>(layers[i]->count() - 1) * 100, memory[i]);
      }
  }
  BOOST_CHECK_GT(left_out, 1'000u);
  BOOST_CHECK_GT(bounded, 1'000u);
}
