#pragma once
// Which node runs which stages, and which layers a stage has. Pure.

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "actors/config/cluster_config.hpp"
#include "gpu/devices.hpp"
#include "model/checkpoint/checkpoint.hpp"

namespace convoy::actors {

/// Where each node's stages are in the pipeline, as the configuration has it: in the order of the nodes. What
/// a plan says counts (actors/members.hpp); this is for who has none.
struct StagePlacement {
  std::string node;
  uint32_t first = 0, count = 0;
};
std::vector<StagePlacement> place_stages(const std::vector<NodeConfig>& nodes);

/// A node's stage among all that run on its machine, whichever node started them: nodes that listen at the
/// same host are on one.
gpu::LocalRank local_rank(const std::vector<NodeConfig>& nodes, const std::string& node, uint32_t instance);

/// What the head takes of a decode, as layers: its products over those of a layer, of experts as many as a
/// token goes to.
double head_layers(const model::Checkpoint& checkpoint);

/// Of the head's layers what counts for the last stage: prompts are sampled once, and want layers that are
/// even. docs/decisions/0019
inline constexpr double head_share = 0.5;

/// What a stage can take of a model.
struct StageShare {
  double speed = 1;  // in proportion to the others'
  int64_t layers_max = std::numeric_limits<int64_t>::max();
};
/// The layers of each stage, at least one: in proportion to their speeds, where the last one has the head
/// too, and as many as they have room for. If all together have too little, as if there were no end to it.
std::vector<model::LayerRange> stage_layers(int64_t layers, const std::vector<StageShare>& stages,
                                            double head_layers);
/// Of stages that are all alike.
std::vector<model::LayerRange> stage_layers(int64_t layers, uint32_t stages, double head_layers);

}  // namespace convoy::actors
