#pragma once
// How long something is good, as people say it: 30m, 1h, 2d. For commands that make what ends.

#include <CLI/CLI.hpp>
#include <cstdint>
#include <map>
#include <string>

namespace convoy::cli {

inline constexpr int64_t one_hour_s = 3600, one_day_s = 24 * one_hour_s;

/// Makes seconds of it.
inline CLI::AsNumberWithUnit time_in_seconds() {
  return CLI::AsNumberWithUnit(
      std::map<std::string, int64_t>{{"s", 1}, {"m", 60}, {"h", one_hour_s}, {"d", one_day_s}},
      CLI::AsNumberWithUnit::CASE_INSENSITIVE, "TIME");
}

}  // namespace convoy::cli
