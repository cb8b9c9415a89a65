#pragma once
// Which node runs which stages, and which layers a stage has. Pure.

#include <cstdint>
#include <string>
#include <vector>

#include "actors/config/cluster_config.hpp"
#include "gpu/devices.hpp"
#include "model/checkpoint/checkpoint.hpp"

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

/// What the head takes of a decode, as layers: its products over those of a layer, of experts as many as a
/// token goes to.
double head_layers(const model::Checkpoint& checkpoint);

/// The layers of each stage, at least one: even in what they take, where the last stage has the head too.
/// Only half of it counts: prompts are sampled once, and want layers that are even.
/// docs/decisions/0019
std::vector<model::LayerRange> stage_layers(int64_t layers, uint32_t stages, double head_layers);

}  // namespace convoy::actors
