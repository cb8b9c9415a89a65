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

gpu::LocalRank local_rank(const std::vector<NodeConfig>& nodes, uint32_t index) {
  const auto placements = place_stages(nodes);
  const auto mine = std::ranges::find_if(
      placements, [=](const StagePlacement& p) { return index >= p.first && index - p.first < p.count; });
  if (mine == placements.end()) return {};  // the pipeline will send it away
  const std::string host = nodes[static_cast<size_t>(mine - placements.begin())].listen_host();
  gpu::LocalRank found{.rank = index - mine->first, .size = 0};
  for (size_t i = 0; i < nodes.size(); i++) {
    if (nodes[i].listen_host() != host) continue;
    if (placements[i].first < mine->first) found.rank += placements[i].count;
    found.size += placements[i].count;
  }
  return found;
}

std::pair<uint32_t, uint32_t> stage_layers(int64_t layers, uint32_t stages, uint32_t index) {
  assert(stages > 0 && index < stages && layers >= stages);
  const uint32_t each = static_cast<uint32_t>(layers) / stages, more = static_cast<uint32_t>(layers) % stages;
  const uint32_t first = index * each + std::min(index, more);
  return {first, first + each + (index < more ? 1 : 0) - 1};
}

}  // namespace convoy::actors
