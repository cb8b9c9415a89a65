#pragma once
// What a table of single keys cannot say: values that contradict each other, or that this version cannot
// serve. Pure; called by cluster_config.cpp, which leaves out what is about a value that is wrong by itself.

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "actors/config/cluster_config.hpp"

namespace convoy::actors {

/// Before what is left out is filled in: one model's keys beside a list of models.
std::vector<ConfigConflict> check_forms(const ClusterConfig& config);
/// Models, pipelines, and who serves which. Part of check_together().
void check_models(const ClusterConfig& config, std::vector<ConfigConflict>& conflicts);
std::vector<ConfigConflict> check_together(const ClusterConfig& config);

/// Whether each model, relative to that folder, is there and looks like one, and whether the file of its
/// chat template can be interpreted. Reads a few bytes of the model, and the template; not pure.
std::vector<ConfigConflict> check_files(const ClusterConfig& config, const std::filesystem::path& folder);

/// Whether nobody can ask the gateway, or listen in, who may not: only this machine reaches it, or it has
/// keys and TLS.
bool is_gateway_guarded(const ClusterConfig::Gateway& gateway);

/// Splits HOST:PORT, also [IPv6]:PORT; the port is -1 if it is not one.
std::pair<std::string, int> split_address(std::string_view address);

}  // namespace convoy::actors
