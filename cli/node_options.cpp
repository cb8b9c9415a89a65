#include "cli/node_options.hpp"

#include "actors/config/placement.hpp"
#include "actors/config/plan_limits.hpp"
#include "actors/process/log.hpp"
#include "actors/process/wall_clock.hpp"
#include "model/chat/end_tokens.hpp"

namespace convoy::cli {

using actors::ClusterConfig;

namespace {

/// The tokenizer and template of a checkpoint; a checkpoint without a tokenizer serves token ids only.
void add_text(gateway::ServedModel& served, const ClusterConfig& config,
              const model::Checkpoint& checkpoint) {
  served.tokenizer = checkpoint.tokenizer();
  if (!served.tokenizer) return log::warn("model.no_tokenizer", {{"model", config.cluster.model}});
  if (!config.cluster.chat_template.empty())
    served.chat =
        model::ChatTemplate::named(config.cluster.chat_template, model::special_tokens(*served.tokenizer));
  else
    served.chat = model::ChatTemplate::of(*served.tokenizer);
}

}  // namespace

gateway::GatewayOptions gateway_options(const ClusterConfig& config, const std::string& node) {
  return {config.gateway,
          node,
          config.pipeline.readiness_period_ms,
          config.cache.epoch,
          config.pipeline.speculation == "prompt_lookup",
          config.pipeline.drafts_max};
}

gateway::ServedModel served_model(const ClusterConfig& config, const model::Checkpoint& checkpoint,
                                  gateway::Later digest) {
  gateway::ServedModel served;
  served.id = config.cluster.model_id;
  served.aliases = config.cluster.models.front().aliases;
  served.created = actors::unix_s();
  served.context_tokens = actors::served_context(config, checkpoint.config());
  served.vocab = checkpoint.config().vocab;
  add_text(served, config, checkpoint);
  served.end_tokens = model::end_tokens(checkpoint.config(), served.tokenizer.get(), served.chat);
  served.weights_digest = std::move(digest);
  served.kernel_variant = actors::arithmetic_of(config);
  return served;
}

actors::PipelineOptions pipeline_options(const ClusterConfig& config, const model::Checkpoint& checkpoint) {
  const model::Config& model = checkpoint.config();
  actors::PipelineOptions options;
  options.limits = actors::scheduler_limits(config, model);
  options.members = actors::configured_members(config);
  options.costs = actors::layer_costs(checkpoint);
  options.step_timeout_ms = config.pipeline.step_timeout_ms;
  options.readiness_period_ms = config.pipeline.readiness_period_ms;
  options.load_timeout_ms = config.pipeline.load_timeout_ms;
  options.failure_detection_ms = config.pipeline.failure_detection_ms;
  options.stage_threads = actors::stage_threads(config);
  options.queue_max_ms = config.pipeline.queue_max_ms;
  return options;
}

actors::CacheOptions cache_options(const ClusterConfig& config, const std::string& url,
                                   const std::string& secret) {
  actors::CacheOptions options;
  options.redis_url = url;
  options.timeout_ms = config.cache.redis_timeout_ms;
  options.ttl_ms = uint64_t{config.cache.ttl_s} * 1000;
  options.entry_bytes_max = config.cache.entry_bytes_max;
  options.in_flight_max = config.cache.in_flight_max;
  options.circuit_failures = config.cache.circuit_failures;
  options.circuit_retry_ms = config.cache.circuit_retry_ms;
  options.secret = secret;
  return options;
}

}  // namespace convoy::cli
