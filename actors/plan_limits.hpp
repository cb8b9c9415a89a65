#pragma once
// What configuration and model together allow: the numbers that pipeline and stages must agree on. Pure.

#include "actors/cluster_config.hpp"
#include "actors/scheduler.hpp"
#include "model/config.hpp"

namespace convoy::actors {

/// Positions per sequence: the model's context, or less if pipeline.context_tokens_max says so.
int64_t served_context(const ClusterConfig& config, const model::Config& model);

SchedulerLimits scheduler_limits(const ClusterConfig& config, const model::Config& model);

/// Throws InputError if the stages cannot divide the layers among them.
void check_stages(const ClusterConfig& config, const model::Config& model);

}  // namespace convoy::actors
