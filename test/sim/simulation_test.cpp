// The scheduler in simulated worlds, many of them. A failure names its seed (test/sim/seeds.hpp).

#include <boost/test/unit_test.hpp>

#include "test/patience.hpp"
#include "test/sim/seeds.hpp"
#include "test/sim/simulation.hpp"

namespace {

using namespace sim;

constexpr uint64_t seeds_all = 1'000, requests_each = 200;
constexpr uint64_t of_each_event = 1'000;  // over all seeds

/// What the simulation found, or nothing.
std::optional<std::string> violation(const World& world, Events& events, Plant plant = Plant::none) {
  try {
    events = Simulation(world, plant).run();
    return std::nullopt;
  } catch (const Violation& violation) {
    return violation.what();
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(requests_of_random_worlds_get_what_they_get_alone) {
  const Seeds seeds("test_simulation -t requests_of_random_worlds_get_what_they_get_alone", seeds_all);
  std::map<std::string, uint64_t> all;
  find_nothing(seeds, [&](uint64_t seed) {
    Events events;
    const auto found = violation(random_world(seed, requests_each), events);
    events.each([&](const char* name, uint64_t count) { all[name] += count; });
    return found;
  });
  check_events(seeds, all, of_each_event);
}

BOOST_AUTO_TEST_CASE(mistakes_are_found) {
  constexpr std::pair<Plant, const char*> plants[]{{Plant::leaked_block, "blocks are lost"},
                                                   {Plant::freed_block, "is used by"},
                                                   {Plant::shared_block, "alone"},
                                                   {Plant::skipped_token, "alone"}};
  for (const auto& [plant, words] : plants)
    for (uint64_t seed = 1; seed <= (convoy::test::sanitized ? 1 : 10); ++seed) {
      BOOST_TEST_CONTEXT("mistake " << words << ", seed " << seed) {
        World world = random_world(seed, requests_each);
        world.resets_us.clear();      // which would forget a lost block
        world.limits.kv_blocks += 8;  // of which one can be lost
        Events events;
        const auto found = violation(world, events, plant);
        BOOST_REQUIRE(found);
        BOOST_CHECK_MESSAGE(found->find(words) != std::string::npos, *found);
      }
    }
}

BOOST_AUTO_TEST_CASE(a_block_that_does_not_come_back_from_the_second_tier_is_found) {
  constexpr uint64_t worlds = convoy::test::sanitized ? 8 : 40;
  size_t planted = 0;
  for (uint64_t seed = 1; seed <= worlds; ++seed) BOOST_TEST_CONTEXT("seed " << seed) {
      World world = random_world(seed, requests_each);
      world.limits.kv_blocks =
          1 + static_cast<uint32_t>(convoy::gpu::kv_blocks_for(world.limits.context_tokens));
      world.limits.kv_tier.places = 1'000;
      Events events;
      BOOST_REQUIRE(!violation(world, events));
      if (events.loaded < 20) continue;  // whom one hurts may end before
      ++planted;
      const auto found = violation(world, events, Plant::lost_load);
      BOOST_REQUIRE(found);
      const bool of_its_answer =
          found->find("alone") != std::string::npos || found->find("impossible token") != std::string::npos;
      BOOST_CHECK_MESSAGE(of_its_answer, *found);
    }
  BOOST_CHECK_GE(planted, worlds / 4);
}
