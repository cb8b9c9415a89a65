#pragma once
// What configuration and model together allow: what gateway, pipeline and stages must agree on. Pure.

#include "actors/cluster_config.hpp"
#include "actors/scheduler.hpp"
#include "gpu/backend.hpp"
#include "model/config.hpp"

namespace convoy::actors {

/// Positions per sequence: the model's context, or less if pipeline.context_tokens_max or kv_tokens say so.
int64_t served_context(const ClusterConfig& config, const model::Config& model);

SchedulerLimits scheduler_limits(const ClusterConfig& config, const model::Config& model);

/// Threads that compute in each stage: stage.threads, or as many as this machine has cores, since with one
/// request at a time only one stage computes.
uint32_t stage_threads(const ClusterConfig& config);

/// What stage.kv_type says: "f32", "bf16" or "f16".
model::DType kv_type_named(std::string_view name);
/// Names everything in the configuration that shapes the bits of an answer, for the cache's key.
std::string arithmetic_of(const ClusterConfig& config);

/// Throws InputError if the stages cannot divide the layers among them.
void check_stages(const ClusterConfig& config, const model::Config& model);

}  // namespace convoy::actors
