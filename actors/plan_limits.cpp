#include "actors/plan_limits.hpp"

#include <algorithm>
#include <cassert>

#include "model/error.hpp"
#include "model/parallel.hpp"

namespace convoy::actors {

int64_t served_context(const ClusterConfig& config, const model::Config& model) {
  const int64_t asked = config.pipeline.context_tokens_max;
  const int64_t kept = std::min<int64_t>(model.context, config.pipeline.kv_tokens);
  return asked == 0 ? kept : std::min(asked, kept);
}

SchedulerLimits scheduler_limits(const ClusterConfig& config, const model::Config& model) {
  SchedulerLimits limits;
  limits.stages = config.stage_count();
  limits.slack = config.pipeline.pipeline_slack;
  limits.sequences = config.pipeline.sequences_max;
  limits.queue = config.pipeline.queue_max;
  limits.kv_blocks = static_cast<uint32_t>(gpu::kv_blocks_for(int64_t{config.pipeline.kv_tokens})) + 1;
  limits.prefill_tokens = config.pipeline.prefill_tokens_per_step;
  limits.context_tokens = served_context(config, model);
  limits.vocab = model.vocab;
  return limits;
}

uint32_t stage_threads(const ClusterConfig& config) {
  return config.stage.threads ? config.stage.threads : static_cast<uint32_t>(model::all_cores());
}

model::DType kv_type_named(std::string_view name) {
  assert(name == "f32" || name == "bf16" || name == "f16");
  if (name == "bf16") return model::DType::bf16;
  return name == "f16" ? model::DType::f16 : model::DType::f32;
}

std::string arithmetic_of(const ClusterConfig& config) {
  return std::string(gpu::make_cpu_backend(gpu::kernels_named(config.stage.kernels), 1)->variant()) + " kv " +
         config.stage.kv_type + (config.stage.deterministic ? " deterministic" : "");
}

void check_stages(const ClusterConfig& config, const model::Config& model) {
  if (config.stage_count() <= model.layers) return;
  throw InputError("the nodes ask for " + std::to_string(config.stage_count()) + " stages, but " +
                       config.cluster.model + " has " + std::to_string(model.layers) + " layers",
                   config.file.string() + ": cluster.nodes", "give each stage at least one layer");
}

}  // namespace convoy::actors
