#include "actors/config/plan_limits.hpp"

#include <algorithm>
#include <cassert>

#include "actors/config/placement.hpp"
#include "gpu/devices.hpp"
#include "gpu/kv_pool.hpp"
#include "gpu/kv_types.hpp"
#include "gpu/stage_shape.hpp"
#include "model/checkpoint/inspect.hpp"
#include "model/error.hpp"
#include "model/parallel.hpp"

namespace convoy::actors {

namespace {

// What a step's plan takes in a frame beside its rows' hidden states, at most.
constexpr uint64_t plan_row_bytes = 256, plan_bytes = 64 << 10;

// 131,072 positions of heads with 128 values take 64 MiB.
constexpr uint64_t rotary_bytes_free = 256 << 20;

}  // namespace

int64_t served_context(const ClusterConfig& config, const model::Config& model) {
  const int64_t asked = config.pipeline.context_tokens_max;
  const int64_t tokens = config.pipeline.kv_tokens;  // 0: as many as fit, which is known later
  const int64_t kept = tokens == 0 ? model.context : std::min(model.context, tokens);
  return asked == 0 ? kept : std::min(asked, kept);
}

SchedulerLimits scheduler_limits(const ClusterConfig& config, const model::Config& model) {
  SchedulerLimits limits;
  limits.stages = config.stage_count();
  limits.slack = config.pipeline.pipeline_slack;
  limits.sequences = config.pipeline.sequences_max;
  limits.queue = config.pipeline.queue_max;
  const int64_t tokens = config.pipeline.kv_tokens;
  limits.kv_blocks = tokens == 0 ? 0 : static_cast<uint32_t>(gpu::kv_blocks_for(tokens)) + 1;
  limits.kv_tier.moves_per_step = config.pipeline.kv_moves_per_step;
  limits.prefill_tokens = config.pipeline.prefill_tokens_per_step;
  limits.prefill_share = config.pipeline.prefill_share;
  limits.prefill_stretch = static_cast<float>(config.pipeline.prefill_stretch_percent) / 100;
  limits.replays_max = config.pipeline.replays_max;
  limits.context_tokens = served_context(config, model);
  limits.vocab = model.vocab;
  return limits;
}

uint32_t stage_threads(const ClusterConfig& config) {
  return config.stage.threads ? config.stage.threads : static_cast<uint32_t>(model::all_cores());
}

gpu::PlacedDevice place_stage(const ClusterConfig& config, gpu::LocalRank rank) {
  return gpu::place_device(config.stage.backend, static_cast<int>(stage_threads(config)), rank);
}

std::optional<model::DType> kv_type_named(std::string_view name) {
  if (name == "auto") return std::nullopt;
  const auto* const found = std::ranges::find(gpu::kv_types, name, &gpu::KvType::name);
  assert(found != gpu::kv_types.end());
  return found->type;
}

std::string arithmetic_of(const ClusterConfig& config) {
  return "kv " + config.stage.kv_type + (config.stage.deterministic ? " deterministic" : "");
}

std::string settings_of(const ClusterConfig& config) {
  const auto number = [](const char* name, uint32_t value) {
    return ", " + std::string(name) + " " + std::to_string(value);
  };
  return "backend " + config.stage.backend + ", kv_type " + config.stage.kv_type +
         (config.stage.deterministic ? ", deterministic" : "") +
         number("context_tokens_max", config.pipeline.context_tokens_max) +
         number("kv_tokens", config.pipeline.kv_tokens) +
         number("sequences_max", config.pipeline.sequences_max) +
         number("prefill_tokens_per_step", config.pipeline.prefill_tokens_per_step);
}

uint64_t step_frame_bytes(const ClusterConfig& config, const model::Config& model) {
  // A stage passes on a row's hidden state and, with it, what the plan says of the row.
  const auto row_bytes = static_cast<uint64_t>(model.hidden) * sizeof(float) + plan_row_bytes;
  return static_cast<uint64_t>(scheduler_limits(config, model).rows()) * row_bytes + plan_bytes;
}

void check_stages(const ClusterConfig& config, const model::Config& model) {
  const std::string file = config.file.string();
  if (config.stage_count() > model.layers)
    throw InputError("the nodes ask for " + std::to_string(config.stage_count()) + " stages, but " +
                         config.cluster.model + " has " + std::to_string(model.layers) + " layers",
                     file + ": cluster.nodes", "give each stage at least one layer");
  gpu::device_named(config.stage.backend,
                    1)(gpu::stage_shape(model, {0, model.layers - 1}, config.stage.deterministic));
  const int64_t rows = scheduler_limits(config, model).rows();
  const uint64_t frame_bytes = step_frame_bytes(config, model), most = config.link.bulk_frame_bytes_max;
  if (config.stage_count() > 1 && frame_bytes > most)
    throw InputError("a step of " + std::to_string(rows) + " rows is a frame of up to " +
                         std::to_string(frame_bytes) +
                         " bytes between stages, and link.bulk_frame_bytes_max is " + std::to_string(most),
                     file + ": pipeline.prefill_tokens_per_step",
                     "lower it, or raise link.bulk_frame_bytes_max (and bulk_window_bytes, queue_bytes_max)");
}

void check_rotary_table(const ClusterConfig& config, const model::Checkpoint& checkpoint) {
  const model::Config& model = checkpoint.config();
  const int64_t positions = served_context(config, model);
  const auto bytes = static_cast<uint64_t>(positions * model.head_dim) * sizeof(float);
  if (bytes <= rotary_bytes_free) return;
  if (const uint64_t weights = model::stage_bytes(checkpoint, {0, model.layers - 1}); bytes > weights)
    throw InputError(
        "the rotary table of " + std::to_string(positions) + " positions would take " +
            std::to_string(bytes >> 20) + " MiB in each stage, more than the model's weights with " +
            std::to_string(weights >> 20) + " MiB",
        config.cluster.model, "set pipeline.context_tokens_max to the context that the model was made for");
}

StageMemory stage_memory(const ClusterConfig& config, const model::Checkpoint& checkpoint,
                         model::LayerRange layers, int64_t rows, gpu::LocalRank rank) {
  const model::Config& model = checkpoint.config();
  const SchedulerLimits limits = scheduler_limits(config, model);
  const auto placed = place_stage(config, rank);
  const auto device = placed.open(gpu::stage_shape(model, layers, config.stage.deterministic));
  const gpu::DeviceLimits given{
      .kv_blocks = limits.kv_blocks,
      .slots = limits.slots(),
      .context_tokens = limits.context_tokens,
      .rows = rows,
      .kv_type = kv_type_named(config.stage.kv_type).value_or(device->facts().kv_type)};
  const int64_t rotations = limits.context_tokens * model.head_dim;  // a cosine and a sine for each pair
  gpu::KvPool pool{.memory_bytes = device->memory_bytes(),
                   .sharers = placed.sharers,
                   .needs = device->needs(given),
                   .host_bytes = static_cast<uint64_t>(rotations) * sizeof(float),
                   .useful_blocks = gpu::useful_kv_blocks(given)};
  pool.needs.weight_bytes = model::stage_bytes(checkpoint, layers);
  StageMemory memory;
  memory.weights = pool.needs.weight_bytes;
  memory.kv_blocks = limits.kv_blocks;
  if (limits.kv_blocks == 0) memory.kv_blocks = pool.blocks(), memory.kv_arithmetic = pool.text();
  memory.kv = pool.needs.kv_block_bytes * memory.kv_blocks;
  memory.buffers = pool.needs.buffer_bytes + pool.host_bytes;
  memory.scratch = pool.needs.scratch_bytes;
  return memory;
}

StageMemory memory_of_nodes(const ClusterConfig& config, const model::Checkpoint& checkpoint,
                            const std::vector<std::string>& nodes) {
  const model::Config& model = checkpoint.config();
  const int64_t rows = scheduler_limits(config, model).rows();
  std::vector<NodeConfig> beside = config.cluster.nodes;  // who shares the machines
  beside.insert(beside.end(), config.cluster.others.begin(), config.cluster.others.end());
  StageMemory all;
  const auto ranges = stage_layers(model.layers, config.stage_count(), head_layers(checkpoint));
  for (const auto& [node, first, count] : place_stages(config.cluster.nodes)) {
    if (count == 0 || std::ranges::find(nodes, node) == nodes.end()) continue;
    if (place_stage(config, local_rank(beside, node, 0)).card) continue;
    model::LayerRange layers;
    for (uint32_t i = first; i < first + count; ++i) {
      const StageMemory one =
          stage_memory(config, checkpoint, ranges[i], rows, local_rank(beside, node, i - first));
      all.kv += one.kv, all.buffers += one.buffers, all.scratch += one.scratch;
      if (i == first) layers.first = ranges[i].first;
      layers.last = ranges[i].last;
    }
    all.weights += model::stage_bytes(checkpoint, layers);
  }
  return all;
}

std::optional<std::string> memory_warning(const std::string& who, const StageMemory& needed,
                                          const model::MemoryLimit& limit) {
  if (limit.bytes == 0 || needed.sum() <= limit.bytes) return std::nullopt;
  const auto mib = [](uint64_t bytes) { return std::to_string((bytes + (1 << 20) - 1) >> 20) + " MiB"; };
  return who + " needs " + mib(needed.sum()) + " of memory (" + mib(needed.weights) + " for weights, " +
         mib(needed.kv) + " for keys and values, " + mib(needed.buffers + needed.scratch) +
         " to compute in), and may use " + mib(limit.bytes) + " (" + limit.set_by +
         "): it will be slow, or be ended by the system; lower pipeline.kv_tokens, or serve a smaller model "
         "or "
         "one with smaller weights";
}

std::optional<std::string> memory_warning(const ClusterConfig& config, const model::Checkpoint& checkpoint,
                                          const std::vector<std::string>& nodes,
                                          const model::MemoryLimit& limit) {
  std::string who;
  for (const std::string& node : nodes) who += (who.empty() ? "" : ", ") + node;
  return memory_warning("node " + who + " with its stages of " + config.cluster.model,
                        memory_of_nodes(config, checkpoint, nodes), limit);
}

}  // namespace convoy::actors
