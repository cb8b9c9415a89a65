#pragma once
// What configuration and model together allow: what gateway, pipeline and stages must agree on. Pure, but for
// how many cores this machine has.

#include <optional>
#include <string>
#include <vector>

#include "actors/config/cluster_config.hpp"
#include "actors/schedule/scheduler.hpp"
#include "gpu/devices.hpp"
#include "model/checkpoint/checkpoint.hpp"
#include "model/config.hpp"
#include "model/memory_limit.hpp"

namespace convoy::actors {

/// Positions per sequence: the model's context, or less if pipeline.context_tokens_max or kv_tokens say so.
int64_t served_context(const ClusterConfig& config, const model::Config& model);

SchedulerLimits scheduler_limits(const ClusterConfig& config, const model::Config& model);

/// Threads that compute in each stage: stage.threads, or as many as this machine has cores, since with one
/// request at a time only one stage computes.
uint32_t stage_threads(const ClusterConfig& config);

/// What computes a stage: stage.backend, for one of the stages of its machine.
gpu::PlacedDevice place_stage(const ClusterConfig& config, gpu::LocalRank rank);

/// What stage.kv_type says: a name of gpu::kv_types; nothing for "auto", the device's choice.
std::optional<model::DType> kv_type_named(std::string_view name);
/// Names what in the configuration shapes the bits of an answer beside the devices of its stages, for the
/// cache's key.
std::string arithmetic_of(const ClusterConfig& config);

/// What all processes of a cluster must have read alike in cluster.conf, in words, for their Hellos.
std::string settings_of(const ClusterConfig& config);

/// What a step takes of a link between stages, in one frame, at most.
uint64_t step_frame_bytes(const ClusterConfig& config, const model::Config& model);

/// Throws InputError if this model cannot be served so, with the key to change: more stages than layers,
/// a device that is not there or does not take the model, steps whose hidden states fit no frame.
void check_stages(const ClusterConfig& config, const model::Config& model);

/// Throws InputError if the table of rotary positions, which each stage fills when it starts, were larger
/// than the model's weights and than any published model's: a configuration can name a context that its file
/// is too small to mean.
void check_rotary_table(const ClusterConfig& config, const model::Checkpoint& checkpoint);

/// What a stage holds in memory once all of it was used, in bytes.
struct StageMemory {
  uint64_t weights = 0, kv = 0;
  uint64_t buffers = 0;  // activations of a step, and the positions' rotations
  uint64_t scratch = 0;  // what operations work in, on all threads
  uint32_t kv_blocks = 0;
  std::string kv_arithmetic = {};  // if pipeline.kv_tokens is 0: why so many
  uint64_t sum() const { return weights + kv + buffers + scratch; }
};
/// Of a stage of these layers, whose steps have so many rows: SchedulerLimits::rows(), or fewer. rank: which
/// of its machine's stages it is; those on one device divide its memory if pipeline.kv_tokens is 0.
StageMemory stage_memory(const ClusterConfig& config, const model::Checkpoint& checkpoint,
                         model::LayerRange layers, int64_t rows, gpu::LocalRank rank = {});

/// Of all stages of these nodes, on one machine: they map one file, so what several of them read of it counts
/// once. Those on cards take next to nothing of it; what their card lacks, they find out when they load.
StageMemory memory_of_nodes(const ClusterConfig& config, const model::Checkpoint& checkpoint,
                            const std::vector<std::string>& nodes);

/// That somebody needs more memory than it may use, with the numbers; or nothing. Stages start all the same:
/// weights are mapped, and fetched from the disk again and again.
std::optional<std::string> memory_warning(const std::string& who, const StageMemory& needed,
                                          const model::MemoryLimit& limit);
/// The same of the stages of these nodes.
std::optional<std::string> memory_warning(const ClusterConfig& config, const model::Checkpoint& checkpoint,
                                          const std::vector<std::string>& nodes,
                                          const model::MemoryLimit& limit);

}  // namespace convoy::actors
