#include "actors/config/placement.hpp"

#include <algorithm>
#include <cassert>

namespace convoy::actors {

std::vector<StagePlacement> place_stages(const std::vector<NodeConfig>& nodes) {
  std::vector<StagePlacement> placements;
  uint32_t next = 0;
  for (const NodeConfig& n : nodes) {
    placements.push_back({n.name, next, n.stages});
    next += n.stages;
  }
  return placements;
}

std::pair<uint32_t, uint32_t> stage_layers(int64_t layers, uint32_t stages, uint32_t index) {
  assert(stages > 0 && index < stages && layers >= stages);
  const uint32_t each = static_cast<uint32_t>(layers) / stages, more = static_cast<uint32_t>(layers) % stages;
  const uint32_t first = index * each + std::min(index, more);
  return {first, first + each + (index < more ? 1 : 0) - 1};
}

}  // namespace convoy::actors
