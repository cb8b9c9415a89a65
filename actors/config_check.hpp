#pragma once
// What a table of single keys cannot say: values that contradict each other, or that this version cannot
// serve. Pure; called by cluster_config.cpp over values that are right one by one.

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "actors/cluster_config.hpp"

namespace convoy::actors {

struct ConfigConflict {
  std::string key;  // where to show it: "gateway.port", "cluster.nodes[0].listen"
  std::string text;
};

std::vector<ConfigConflict> check_together(const ClusterConfig& config);

/// Splits HOST:PORT, also [IPv6]:PORT; the port is -1 if it is not one.
std::pair<std::string, int> split_address(std::string_view address);

}  // namespace convoy::actors
