#pragma once
// What a table of single keys cannot say: values that contradict each other, or that this version cannot
// serve. Pure; called by cluster_config.cpp, which leaves out what is about a value that is wrong by itself.

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "actors/config/cluster_config.hpp"

namespace convoy::actors {

std::vector<ConfigConflict> check_together(const ClusterConfig& config);

/// Whether `cluster.model`, relative to that folder, is there and looks like a model, and whether the file of
/// `cluster.chat_template` can be interpreted. Reads a few bytes of the model, and the template; not pure.
std::vector<ConfigConflict> check_files(const ClusterConfig& config, const std::filesystem::path& folder);

/// Splits HOST:PORT, also [IPv6]:PORT; the port is -1 if it is not one.
std::pair<std::string, int> split_address(std::string_view address);

}  // namespace convoy::actors
