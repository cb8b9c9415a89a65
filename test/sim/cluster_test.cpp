// Whole pipelines in simulated clusters, many of them, with faults. A failure names its seed, which runs
// alone with its log (test/sim/seeds.hpp).

#include <boost/test/unit_test.hpp>
#include <map>

#include "actors/process/log.hpp"
#include "test/patience.hpp"
#include "test/sim/cluster.hpp"
#include "test/sim/seeds.hpp"

namespace {

using namespace sim;

constexpr uint64_t seeds_all = 560;
constexpr size_t requests_each = 40, faults_each = 3 * faults_count;
constexpr uint64_t of_each_event = 1'000;  // over all seeds

/// What the simulation found, or nothing.
std::optional<std::string> violation(const ClusterWorld& world, ClusterEvents& events,
                                     ClusterPlant plant = ClusterPlant::none) {
  try {
    events = Cluster(world, plant).run();
    return std::nullopt;
  } catch (const Violation& violation) {
    return violation.what();
  }
}

/// The same in the first of so many worlds of so many pipelines where it finds something.
std::optional<std::string> first_violation(ClusterPlant plant, size_t pipelines, uint64_t worlds) {
  std::optional<std::string> found;
  for (uint64_t seed = 1; worlds > 0 && !found; ++seed) {
    const ClusterWorld world = random_cluster(seed, requests_each, faults_each);
    if (world.pipelines != pipelines) continue;
    ClusterEvents events;
    found = violation(world, events, plant);
    --worlds;
  }
  return found;
}

struct Log {
  Log() { convoy::log::configure(Seeds::number_of("CONVOY_SIM_SEED") ? "info" : "error", false, "sim"); }
};

}  // namespace

BOOST_TEST_GLOBAL_FIXTURE(Log);

BOOST_AUTO_TEST_CASE(a_request_without_faults_gets_what_it_gets_alone) {
  for (uint64_t seed = 1; seed <= (convoy::test::sanitized ? 3 : 20); ++seed) {
    ClusterEvents events;
    const auto found = violation(random_cluster(seed, 1, 0), events);
    BOOST_CHECK_MESSAGE(!found, "seed " << seed << ": " << *found);
  }
}

BOOST_AUTO_TEST_CASE(requests_of_random_clusters_get_what_they_get_alone) {
  const Seeds seeds("test_cluster_simulation -t requests_of_random_clusters_get_what_they_get_alone",
                    seeds_all);
  std::map<std::string, uint64_t> all, figures;
  find_nothing(seeds, [&](uint64_t seed) {
    ClusterEvents events;
    const auto found = violation(random_cluster(seed, requests_each, faults_each), events);
    events.each([&](const char* name, uint64_t count) { all[name] += count; });
    events.each_figure([&](const char* name, uint64_t count) { figures[name] += count; });
    return found;
  });
  check_events(seeds, all, of_each_event);
  for (const auto& [name, count] : figures) BOOST_TEST_MESSAGE(name << ": " << count);
}

BOOST_AUTO_TEST_CASE(the_same_seed_makes_the_same_cluster) {
  for (const uint64_t seed : {7, 8}) {
    ClusterEvents once, again;
    BOOST_REQUIRE(!violation(random_cluster(seed, requests_each, faults_each), once));
    BOOST_REQUIRE(!violation(random_cluster(seed, requests_each, faults_each), again));
    BOOST_CHECK_EQUAL(once.frames, again.frames);
    BOOST_CHECK_EQUAL(once.reordered, again.reordered);
    BOOST_CHECK_EQUAL(once.virtual_ms, again.virtual_ms);
  }
}

BOOST_AUTO_TEST_CASE(mistakes_are_found) {
  struct Mistake {
    ClusterPlant plant;
    std::vector<std::string> words;  // that it is found by, one of them
    uint64_t worlds;                 // within so many
  };
  const Mistake mistakes[]{{ClusterPlant::skipped_token, {"alone"}, 1},
                           {ClusterPlant::doubled_tokens, {"behind"}, 1},
                           {ClusterPlant::stale_epoch, {"failed"}, 20},
                           {ClusterPlant::believed_links, {"is told epoch"}, 5},
                           {ClusterPlant::believed_links_unseen, {"no rest", "failed"}, 60}};
  for (const auto& [plant, words, worlds] : mistakes) {
    if (convoy::test::sanitized && worlds > 5) continue;
    for (const size_t pipelines : {1, 2}) {
      const auto found = first_violation(plant, pipelines, worlds);
      BOOST_REQUIRE_MESSAGE(found, words[0] << " is not found with " << pipelines << " pipelines");
      BOOST_CHECK_MESSAGE(std::ranges::any_of(words, [&](const auto& w) { return found->find(w) != w.npos; }),
                          *found);
    }
  }
}
