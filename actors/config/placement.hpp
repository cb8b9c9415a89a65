#pragma once
// Which node runs which stages, and which layers a stage has. Pure.

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "actors/config/cluster_config.hpp"
#include "gpu/devices.hpp"

namespace convoy::actors {

/// Instances of stages are numbered over the nodes in the order of the configuration.
struct StagePlacement {
  std::string node;
  uint32_t first = 0, count = 0;
};
std::vector<StagePlacement> place_stages(const std::vector<NodeConfig>& nodes);

/// Stage `index` among all that run on its machine, whichever node started them: nodes that listen at the
/// same host are on one.
gpu::LocalRank local_rank(const std::vector<NodeConfig>& nodes, uint32_t index);

/// Layers of stage `index` of `stages`: even, the first ones take the remainder. {first, last}, inclusive.
std::pair<uint32_t, uint32_t> stage_layers(int64_t layers, uint32_t stages, uint32_t index);

}  // namespace convoy::actors
