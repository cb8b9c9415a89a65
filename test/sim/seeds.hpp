#pragma once
// Seeds: which worlds a simulation runs, unless the environment says otherwise: CONVOY_SIM_SEED=N that one
// alone, CONVOY_SIM_SEEDS=N so many, CONVOY_SIM_FIRST=N from that one on.

#include <boost/test/unit_test.hpp>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <optional>
#include <string>

namespace sim {

struct Seeds {
  uint64_t first = 1, count = 0;
  bool all = true;   // that there are: too few of them need not have every rare event
  std::string test;  // that runs them

  Seeds(std::string test_name, uint64_t count_all) : test(std::move(test_name)) {
    const auto alone = number_of("CONVOY_SIM_SEED"), from = number_of("CONVOY_SIM_FIRST");
    first = alone ? *alone : from.value_or(1);
    count = alone ? 1 : number_of("CONVOY_SIM_SEEDS").value_or(count_all);
    all = first == 1 && count >= count_all;
  }
  /// How a seed is run again.
  std::string replay(uint64_t seed) const {
    const std::string number = std::to_string(seed);
    return "seed " + number + ", alone: CONVOY_SIM_SEED=" + number + " " + test;
  }

  static std::optional<uint64_t> number_of(const char* variable) {
    const char* const text = std::getenv(variable);
    return text ? std::optional(std::strtoull(text, nullptr, 10)) : std::nullopt;
  }
};

/// Runs `found_in(seed)` for each: what is wrong in its world, or nothing.
template <class Found>
void find_nothing(const Seeds& seeds, const Found& found_in) {
  for (uint64_t seed = seeds.first; seed < seeds.first + seeds.count; ++seed) {
    BOOST_TEST_CONTEXT(seeds.replay(seed)) {
      const std::optional<std::string> found = found_in(seed);
      BOOST_CHECK_MESSAGE(!found, *found);
    }
  }
}

/// Says how often each event happened; over all seeds at least so often.
inline void check_events(const Seeds& seeds, const std::map<std::string, uint64_t>& events, uint64_t least) {
  for (const auto& [name, count] : events) {
    BOOST_TEST_MESSAGE(name << ": " << count);
    if (seeds.all) BOOST_CHECK_MESSAGE(count >= least, name << " happened only " << count << " times");
  }
}

}  // namespace sim
