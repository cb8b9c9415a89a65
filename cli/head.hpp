#pragma once
// Head: what the head runs in its process: the gateway, the router, the cache with its Redis, and
// the pipeline. HeadProcess builds it and ends it, step by step, on the main thread; the node actor asks for
// redis_json().

#include <prometheus/registry.h>

#include <filesystem>
#include <future>
#include <memory>
#include <string>
#include <thread>

#include "actors/cache/answer_cache.hpp"
#include "actors/cache/redis_server.hpp"
#include "actors/config/cluster_config.hpp"
#include "actors/link/link.hpp"
#include "actors/pipeline.hpp"
#include "cli/actor_watch.hpp"
#include "gateway/gateway.hpp"
#include "model/checkpoint/checkpoint.hpp"

namespace convoy::cli {

class Head {
 public:
  /// The arguments must outlive it.
  Head(caf::actor_system& system, const actors::ClusterConfig& config, const std::string& node,
       actors::Links& links);

  /// Reads the model; starts all but the pipeline. Throws InputError: what runs by then is ended as always.
  void start();
  void start_pipeline(const actors::NodeActor& node);
  void hold_actors(ActorWatch& watch) const;
  /// Opens the door. Throws InputError if the address is taken.
  void serve();

  const actors::PipelineActor& pipeline() const { return pipeline_; }
  std::string url() const;         // of the gateway
  std::string redis_json() const;  // {"address", "pid", "state", "reason"}

  /// No new requests; ready when the last answer has ended.
  std::future<void> drain() { return gateway_->drain(); }
  /// From the edge inwards: first no new requests, then, once the stages are gone, no actors.
  void close();
  void end_actors();

 private:
  void find_digest(const std::shared_ptr<const model::Checkpoint>& checkpoint);
  void start_cache();

  caf::actor_system& system_;
  const actors::ClusterConfig& config_;
  const std::string node_;
  const std::filesystem::path run_dir_;
  actors::Links& links_;
  actors::PipelineOptions pipeline_options_;
  std::shared_ptr<prometheus::Registry> metrics_ = std::make_shared<prometheus::Registry>();
  std::string secret_;  // the cluster's
  std::unique_ptr<actors::RedisServer> redis_;
  gateway::Later digest_;  // of the model
  std::unique_ptr<gateway::Gateway> gateway_;
  actors::RouterActor router_;
  std::unique_ptr<actors::AnswerCache> cache_;
  actors::CacheActor cache_actor_;
  actors::PipelineActor pipeline_;
  std::jthread digest_finder_;  // ended by close()
};

}  // namespace convoy::cli
