#include "actors/config/placement.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>

#include "model/checkpoint/inspect.hpp"

namespace convoy::actors {

namespace {

/// How many layers each takes, fractions of them included: whoever has room for less than its share leaves
/// the rest to the others. The last one's room is without the head, its share with it.
std::vector<double> shares(double work, const std::vector<StageShare>& stages, double last_extra) {
  std::vector<double> taken(stages.size(), -1);  // -1: its share
  for (bool again = true; again;) {
    double left = work, speeds = 0;
    for (size_t i = 0; i < stages.size(); ++i)
      taken[i] < 0 ? void(speeds += stages[i].speed) : void(left -= taken[i]);
    again = false;
    for (size_t i = 0; i < stages.size(); ++i) {
      if (taken[i] >= 0) continue;
      const double room =
          static_cast<double>(stages[i].layers_max) + (i + 1 == stages.size() ? last_extra : 0);
      if (left * stages[i].speed / speeds > room) taken[i] = room, again = true;
    }
    if (again) continue;
    for (size_t i = 0; i < stages.size(); ++i)
      if (taken[i] < 0) taken[i] = left * stages[i].speed / speeds;
  }
  return taken;
}

bool have_room(int64_t layers, const std::vector<StageShare>& stages) {
  double room = 0;
  for (const StageShare& stage : stages) {
    if (stage.layers_max < 1) return false;
    room += static_cast<double>(stage.layers_max);
  }
  return room >= static_cast<double>(layers);
}

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

gpu::LocalRank local_rank(const std::vector<NodeConfig>& nodes, const std::string& node, uint32_t instance) {
  const auto mine = std::ranges::find(nodes, node, &NodeConfig::name);
  if (mine == nodes.end() || instance >= mine->stages) return {};  // the pipeline will send it away
  const std::string host = mine->listen_host();
  gpu::LocalRank found{.rank = instance, .size = 0};
  for (auto other = nodes.begin(); other != nodes.end(); ++other) {
    if (other->listen_host() != host) continue;
    if (other < mine) found.rank += other->stages;
    found.size += other->stages;
  }
  return found;
}

double head_layers(const model::Checkpoint& checkpoint) {
  const model::Config& config = checkpoint.config();
  const auto head = static_cast<double>(config.vocab * config.hidden);
  const auto all = static_cast<double>(model::inspect(checkpoint).parameters_active);
  return head * static_cast<double>(config.layers) / (all - head);
}

std::vector<model::LayerRange> stage_layers(int64_t layers, const std::vector<StageShare>& stages,
                                            double head_layers) {
  const auto count = static_cast<int64_t>(stages.size());
  assert(count > 0 && layers >= count && head_layers >= 0);
  std::vector<StageShare> offered = stages;
  if (!have_room(layers, stages))
    for (StageShare& stage : offered) stage.layers_max = StageShare().layers_max;
  const double head = head_share * head_layers;
  const auto taken = shares(static_cast<double>(layers) + head, offered, head);
  std::vector<model::LayerRange> ranges;
  int64_t first = 0;
  double sum = 0;
  for (int64_t i = 1; i <= count; ++i) {
    sum += taken[static_cast<size_t>(i - 1)];
    const int64_t most = layers - (count - i);  // the others need one each
    const int64_t end = std::clamp<int64_t>(std::lround(sum), first + 1, most);
    ranges.push_back({first, end - 1});
    first = end;
  }
  return ranges;
}

std::vector<model::LayerRange> stage_layers(int64_t layers, uint32_t stages, double head_layers) {
  return stage_layers(layers, std::vector<StageShare>(stages), head_layers);
}

}  // namespace convoy::actors
