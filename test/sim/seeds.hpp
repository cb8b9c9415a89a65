#pragma once
// Seeds: which worlds a simulation runs, unless the environment says otherwise: CONVOY_SIM_SEED=N that one
// alone, CONVOY_SIM_SEEDS=N so many, CONVOY_SIM_FIRST=N from that one on.

#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>

namespace sim {

struct Seeds {
  uint64_t first = 1, count = 0;
  bool known = true;  // the first of all, of which it is known what happens in them
  std::string test;   // that runs them

  Seeds(std::string test_name, uint64_t all) : test(std::move(test_name)) {
    const auto alone = number_of("CONVOY_SIM_SEED"), from = number_of("CONVOY_SIM_FIRST");
    first = alone ? *alone : from.value_or(1);
    count = alone ? 1 : number_of("CONVOY_SIM_SEEDS").value_or(all);
    known = !alone && !from;
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

}  // namespace sim
