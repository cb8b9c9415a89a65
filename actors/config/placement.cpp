#include "actors/config/placement.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>

#include "model/checkpoint/inspect.hpp"

namespace convoy::actors {

namespace {

/// Of the time of stages that answer many: the rest goes to prompts.
constexpr double decode_share = 0.5;

}  // namespace

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

double head_layers(const model::Checkpoint& checkpoint) {
  const model::Config& config = checkpoint.config();
  const auto head = static_cast<double>(config.vocab * config.hidden);
  const auto all = static_cast<double>(model::inspect(checkpoint).parameters_active);
  return head * static_cast<double>(config.layers) / (all - head);
}

std::vector<model::LayerRange> stage_layers(int64_t layers, uint32_t stages, double head_layers) {
  assert(stages > 0 && layers >= stages && head_layers >= 0);
  const double each = (static_cast<double>(layers) + decode_share * head_layers) / stages;
  std::vector<model::LayerRange> ranges;
  int64_t first = 0;
  for (int64_t i = 1; i <= stages; ++i) {
    const int64_t most = layers - (stages - i);  // the others need one each
    const int64_t end = std::clamp<int64_t>(std::lround(each * static_cast<double>(i)), first + 1, most);
    ranges.push_back({first, end - 1});
    first = end;
  }
  return ranges;
}

}  // namespace convoy::actors
