#include "cli/head.hpp"

#include <boost/json.hpp>
#include <utility>

#include "actors/config/plan_limits.hpp"
#include "actors/process/log.hpp"
#include "actors/process/secret.hpp"
#include "actors/router.hpp"
#include "cli/node_options.hpp"
#include "model/checkpoint/kept_digest.hpp"

namespace convoy::cli {

namespace {

/// The cache of a cluster that has it switched off: passes everything on.
actors::CacheActor::behavior_type no_cache(actors::CacheActor::pointer self, actors::RouterActor router) {
  return {[=](const actors::Frame<schema::Generate>& frame) { self->send(router, frame); },
          [](const actors::Frame<schema::Store>&) {}};
}

}  // namespace

Head::Head(caf::actor_system& system, const actors::ClusterConfig& config, const std::string& node,
           actors::Links& links)
    : system_(system), config_(config), node_(node), run_dir_(config.cluster.run_dir), links_(links) {}

void Head::start() {
  const auto checkpoint = model::Checkpoint::open(config_.cluster.model);
  for (const std::string& note : checkpoint->notes())
    log::warn("model.note", {{"model", config_.cluster.model}, {"note", note}});
  actors::check_stages(config_, checkpoint->config());
  actors::check_rotary_table(config_, *checkpoint);
  secret_ = actors::load_or_create_secret(run_dir_ / actors::secret_file);
  pipeline_options_ = pipeline_options(config_, *checkpoint);
  pipeline_options_.kv_secret = actors::derive_key(secret_, "names of KV blocks");
  gateway_ = std::make_unique<gateway::Gateway>(system_, gateway_options(config_, node_),
                                                served_model(config_, *checkpoint, digest_), metrics_);
  find_digest(checkpoint);
  router_ = system_.spawn(actors::router, actors::RouterOptions{config_.pipeline.readiness_period_ms},
                          gateway_->actor());
  if (config_.cache.enabled)
    start_cache();
  else
    cache_actor_ = system_.spawn(no_cache, router_);
}

void Head::start_cache() {
  std::string url = config_.redis.url;
  if (url.empty()) {
    actors::RedisServerOptions options;
    options.run_dir = run_dir_;
    options.memory_bytes_max = config_.redis.memory_bytes_max;
    redis_ = std::make_unique<actors::RedisServer>(options);
    redis_->start();
    url = redis_->url();
  }
  cache_ = std::make_unique<actors::AnswerCache>(system_, cache_options(config_, url, secret_), router_,
                                                 gateway_->actor(), metrics_);
  cache_actor_ = cache_->actor();
}

/// Stages are linked, and answers kept, once it is known. A model that nobody has read yet may take minutes,
/// and this process has others to answer meanwhile.
void Head::find_digest(const std::shared_ptr<const model::Checkpoint>& checkpoint) {
  const auto found = [this](const std::string& digest) {
    digest_.set(digest);
    links_.set_model(digest);
  };
  if (const auto kept = model::kept_digest(*checkpoint, run_dir_)) return found(*kept);
  log::info("node.reads_model", {{"model", config_.cluster.model}, {"why", "its digest is not kept yet"}});
  digest_finder_ = std::jthread([=, this](std::stop_token stop) {
    const std::string digest = model::find_digest(*checkpoint, run_dir_, stop);
    if (!digest.empty()) found(digest);
  });
}

void Head::start_pipeline(const actors::NodeActor& node) {
  actors::PipelinePeers peers;
  peers.gateway_node = node_;
  peers.gateway = gateway_->actor();
  peers.router = router_;
  peers.node = node;
  peers.drop = [this](const actors::PeerIdentity& peer, const std::string& reason) {
    links_.drop(peer, reason);
  };
  peers.process_state = [](const actors::PeerIdentity& peer) {
    return actors::process_state(peer.pid, std::to_string(peer.incarnation));
  };
  peers.metrics = metrics_;
  pipeline_ = system_.spawn(actors::pipeline, pipeline_options_, peers);
  caf::anon_send(router_, actors::AddPipeline{pipeline_});
  links_.publish(schema::Role::PIPELINE, 0, caf::actor_cast<caf::actor>(pipeline_));
}

void Head::hold_actors(ActorWatch& watch) const {
  watch.hold(pipeline_, "pipeline");
  watch.hold(router_, "router");
  watch.hold(cache_actor_, "cache");
  watch.hold(gateway_->actor(), "gateway");
}

void Head::serve() { gateway_->serve(cache_actor_, router_, cache_ ? secret_ : ""); }

std::string Head::url() const {
  const std::string& host = config_.gateway.host;
  const bool is_v6 = host.find(':') != host.npos;
  return "http://" + (is_v6 ? "[" + host + "]" : host) + ":" + std::to_string(gateway_->port());
}

std::string Head::redis_json() const {
  boost::json::object redis{{"address", ""}, {"pid", 0}, {"state", "off"}};
  if (cache_) {
    const auto health = cache_->health();
    redis = {{"address", health.address},
             {"pid", redis_ ? redis_->pid() : 0},
             {"state", health.state},
             {"reason", health.reason}};
  }
  return boost::json::serialize(redis);
}

void Head::close() {
  digest_finder_ = {};
  gateway_.reset();
}

void Head::end_actors() {
  actors::end_and_wait(system_, pipeline_, router_);
  if (!cache_) actors::end_and_wait(system_, cache_actor_);
  cache_.reset();
}

}  // namespace convoy::cli
