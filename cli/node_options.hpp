#pragma once
// What the parts of a head node are told of its configuration and model. Called once each, when it starts.

#include <string>

#include "actors/cache/answer_cache.hpp"
#include "actors/config/cluster_config.hpp"
#include "actors/pipeline.hpp"
#include "gateway/gateway.hpp"
#include "model/checkpoint/checkpoint.hpp"

namespace convoy::cli {

gateway::GatewayOptions gateway_options(const actors::ClusterConfig& config, const std::string& node);
/// The model of ClusterConfig::of_pipeline(), as the next. One without a tokenizer serves token ids only.
/// digest: of its weights, once that is known.
gateway::ServedModel served_model(const actors::ClusterConfig& config, const model::Checkpoint& checkpoint,
                                  gateway::Later digest);
actors::PipelineOptions pipeline_options(const actors::ClusterConfig& config,
                                         const model::Checkpoint& checkpoint);
/// url: of the configured Redis, or of our own.
actors::CacheOptions cache_options(const actors::ClusterConfig& config, const std::string& url,
                                   const std::string& secret);

}  // namespace convoy::cli
