#pragma once
// Whether a plan can be, as far as anybody can tell before its stages load. Pure.

#include <optional>
#include <string>
#include <vector>

#include "actors/config/cluster_config.hpp"
#include "actors/members.hpp"

namespace convoy::actors {

/// Why not, or nothing. peers: who is there of its stages; of no node: nobody, and nothing is known of its
/// memory. Of that only weights are counted: what else a stage takes can be made smaller by the
/// configuration.
std::optional<std::string> refuse_plan(const ClusterConfig& config, const model::Checkpoint& checkpoint,
                                       const std::vector<PlannedStage>& plan,
                                       const std::vector<PeerIdentity>& peers);

}  // namespace convoy::actors
