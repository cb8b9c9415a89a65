#pragma once
// Head: what the head runs in its process: the gateway, the router, the cache with its Redis, and
// the pipelines with the models that they serve. HeadProcess builds it and ends it, step by step, on the main
// thread; the node actor asks for redis_json().

#include <prometheus/registry.h>

#include <filesystem>
#include <future>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "actors/cache/answer_cache.hpp"
#include "actors/cache/redis_server.hpp"
#include "actors/config/cluster_config.hpp"
#include "actors/link/link.hpp"
#include "actors/pipeline.hpp"
#include "cli/actor_watch.hpp"
#include "cli/members_file.hpp"
#include "gateway/gateway.hpp"
#include "model/checkpoint/checkpoint.hpp"

namespace convoy::cli {

class Head {
 public:
  /// The arguments must outlive it. metrics: what /metrics shows.
  /// incarnation: of this process.
  Head(caf::actor_system& system, const actors::ClusterConfig& config, const std::string& node,
       uint64_t incarnation, actors::Links& links, std::shared_ptr<prometheus::Registry> metrics);

  /// Reads the models; starts all but the pipelines. Throws InputError: what runs by then is ended as always.
  void start();
  void start_pipelines(const actors::NodeActor& node);
  void hold_actors(ActorWatch& watch) const;
  /// Opens the door. Throws InputError if the address is taken.
  void serve();

  /// Takes changes of the gateway's files. Once a second or so, on one thread.
  void look();

  /// A gateway in a process of its own is linked. Any thread.
  void gateway_up(const std::string& node, const actors::GatewayActor& gateway) const;
  /// Whether that node may have one. Any thread, once there is a pipeline.
  bool has_gateway(const std::string& node) const;
  uint32_t connections() const { return gateway_->connections(); }

  /// That of that name, the first of none; null if there is no such pipeline.
  actors::PipelineActor pipeline(const std::string& name) const;
  std::string url() const;         // of the gateway
  std::string redis_json() const;  // {"address", "pid", "state", "reason"}

  /// The cluster's nodes now: those of cluster.conf, and those that were added. Any thread.
  std::vector<actors::NodeConfig> nodes() const { return members_->nodes(); }
  /// Name of the pipeline that has that node as a member; empty: none. Any thread.
  std::string pipeline_of(const std::string& node) const { return members_->pipeline_of(node); }
  /// Makes one more of them a member, and waits for that; throws InputError if it cannot be. Any thread, once
  /// there is a pipeline.
  void add_node(const actors::NodeConfig& node) const;

  /// No new requests; ready when the last answer has ended.
  std::future<void> drain() { return gateway_->drain(); }
  /// From the edge inwards: first no new requests, then, once the stages are gone, no actors.
  void close();
  void end_actors();

 private:
  struct Model {
    actors::ModelConfig config;
    std::shared_ptr<const model::Checkpoint> checkpoint;
    gateway::Later digest;
    actors::WeightServerActor weights;  // null: it does not come from files
  };
  struct Pipeline {
    actors::ClusterConfig config;  // ClusterConfig::of_pipeline()
    std::shared_ptr<const model::Checkpoint> checkpoint;
    actors::PipelineOptions options;
    actors::PipelineActor actor;
    const std::string& name() const { return options.name; }
  };

  void open_models();
  void plan_pipelines();
  gateway::ServedModels served_models();
  void start_weight_servers();
  void find_digests();
  void found_digest(Model& model, const std::string& digest);
  void start_cache();
  actors::PipelineActor start_pipeline(const Pipeline& pipeline, const actors::NodeActor& node);
  /// Does it with each name by which links know the pipelines of that model.
  template <class Do>
  void for_names_of(const Model& model, Do what) const;
  void tell_terms() const;
  void tell_keys();

  caf::actor_system& system_;
  const actors::ClusterConfig& config_;
  const std::string node_;
  const std::filesystem::path run_dir_;
  const uint64_t incarnation_;
  actors::Links& links_;
  std::vector<Model> models_;        // as configured, the default first
  std::vector<Pipeline> pipelines_;  // as well
  std::optional<MembersFile> members_;
  const std::shared_ptr<prometheus::Registry> metrics_;
  std::string secret_;  // the cluster's
  std::unique_ptr<actors::RedisServer> redis_;
  std::optional<gateway::ServedModels> served_;  // once it starts
  actors::GatewayDeskActor desk_;
  std::shared_ptr<const gateway::ApiKeys> keys_told_;
  std::unique_ptr<gateway::Gateway> gateway_;
  actors::RouterActor router_;
  std::unique_ptr<actors::AnswerCache> cache_;
  actors::CacheActor cache_actor_;
  std::jthread digest_finder_;  // ended by close()
};

}  // namespace convoy::cli
