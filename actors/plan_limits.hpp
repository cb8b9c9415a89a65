#pragma once
// What configuration and model together allow: what gateway, pipeline and stages must agree on. Pure.

#include "actors/cluster_config.hpp"
#include "actors/scheduler.hpp"
#include "gpu/backend.hpp"
#include "model/config.hpp"

namespace convoy::actors {

/// Positions per sequence: the model's context, or less if pipeline.context_tokens_max says so.
int64_t served_context(const ClusterConfig& config, const model::Config& model);

SchedulerLimits scheduler_limits(const ClusterConfig& config, const model::Config& model);

/// What every stage computes with.
gpu::Kernels kernels_of(const ClusterConfig& config);
model::DType kv_type_of(const ClusterConfig& config);
/// Names everything in the configuration that shapes the bits of an answer, for the cache's key.
std::string arithmetic_of(const ClusterConfig& config);

/// Throws InputError if the stages cannot divide the layers among them.
void check_stages(const ClusterConfig& config, const model::Config& model);

}  // namespace convoy::actors
