#include "cli/head.hpp"

#include <algorithm>
#include <boost/json.hpp>
#include <utility>

#include "actors/config/plan_limits.hpp"
#include "actors/gateway_desk.hpp"
#include "actors/link/link_address.hpp"
#include "actors/pipeline_name.hpp"
#include "actors/plan_check.hpp"
#include "actors/process/log.hpp"
#include "actors/process/secret.hpp"
#include "actors/router.hpp"
#include "actors/weights/weight_server.hpp"
#include "cli/gateway_url.hpp"
#include "cli/node_options.hpp"
#include "gateway/answer_key.hpp"
#include "gateway/served_terms.hpp"
#include "model/checkpoint/kept_digest.hpp"
#include "model/error.hpp"

namespace convoy::cli {

namespace {

constexpr const char* members_file = ".members.json";
constexpr auto pipeline_answers_within = std::chrono::seconds(5);

/// The cache of a cluster that has it switched off: passes everything on.
actors::CacheActor::behavior_type no_cache(actors::CacheActor::pointer self, actors::RouterActor router) {
  return {[=](const actors::Frame<schema::Generate>& frame) { self->send(router, frame); },
          [](const actors::Frame<schema::Store>&) {}, [](const actors::GatewayUp&) {}};
}

}  // namespace

Head::Head(caf::actor_system& system, const actors::ClusterConfig& config, const std::string& node,
           uint64_t incarnation, actors::Links& links, std::shared_ptr<prometheus::Registry> metrics)
    : system_(system),
      config_(config),
      node_(node),
      run_dir_(config.cluster.run_dir),
      incarnation_(incarnation),
      links_(links),
      metrics_(std::move(metrics)) {}

void Head::start() {
  open_models();
  secret_ = actors::load_or_create_secret(run_dir_ / actors::secret_file);
  members_.emplace(config_, run_dir_ / members_file);
  plan_pipelines();
  served_ = served_models();
  gateway_ = std::make_unique<gateway::Gateway>(system_, gateway_options(config_, node_), *served_, metrics_);
  desk_ = system_.spawn(actors::gateway_desk);
  start_weight_servers();
  find_digests();
  router_ = system_.spawn(actors::router, actors::RouterOptions{config_.pipeline.readiness_period_ms},
                          actors::GatewaysByNode{{node_, gateway_->actor()}});
  if (config_.cache.enabled)
    start_cache();
  else
    cache_actor_ = system_.spawn(no_cache, router_);
  tell_keys();
  tell_terms();
  links_.publish(schema::Role::CACHE, 0, caf::actor_cast<caf::actor>(cache_actor_));
  links_.publish(schema::Role::ROUTER, 0, caf::actor_cast<caf::actor>(router_));
}

void Head::look() {
  gateway_->look();
  tell_keys();
}

void Head::tell_terms() const {
  gateway::GatewayTerms terms;
  for (const gateway::ServedModel& model : served_->list()) {
    const auto serves = std::ranges::find(
        pipelines_, model.id, [](const Pipeline& p) -> const std::string& { return p.options.model; });
    terms.models.push_back(gateway::terms_of(model, serves->name()));
  }
  terms.asks_for_keys = !config_.gateway.keys_file.empty();
  if (config_.cache.enabled) terms.answer_key = gateway::answer_key_of(secret_);
  terms.cache_epoch = config_.cache.epoch;
  terms.frame_bytes_max = config_.link.bulk_frame_bytes_max;
  caf::anon_send(desk_, gateway::encode(terms));
}

void Head::tell_keys() {
  const auto keys = gateway_->keys();
  if (!keys || keys == keys_told_) return;
  keys_told_ = keys;
  const std::string lines = gateway::text_of(*keys);
  schema::FrameBuilder<schema::GatewayKeys> frame(lines.size() / sizeof(capnp::word) + 8);
  frame->setLines(lines);
  caf::anon_send(desk_, std::move(frame).finish());
}

void Head::gateway_up(const std::string& node, const actors::GatewayActor& gateway) const {
  const actors::GatewayUp up{node, gateway};
  caf::anon_send(cache_actor_, up);
  caf::anon_send(router_, up);
  for (const Pipeline& pipeline : pipelines_) caf::anon_send(pipeline.actor, up);
  caf::anon_send(desk_, up);
}

bool Head::has_gateway(const std::string& node) const {
  return std::ranges::any_of(nodes(), [&](const actors::NodeConfig& n) {
    return n.name == node && n.name != node_ && n.has_role("gateway");
  });
}

void Head::open_models() {
  for (const actors::ModelConfig& config : config_.cluster.models) {
    Model& model = models_.emplace_back(Model{config, model::Checkpoint::open(config.path), {}, {}});
    for (const std::string& note : model.checkpoint->notes())
      log::warn("model.note", {{"model", config.path}, {"note", note}});
  }
}

/// With the members of a head before, which may have learnt more than cluster.conf says.
void Head::plan_pipelines() {
  for (const actors::PipelineConfig& configured : config_.cluster.pipelines) {
    const auto model = std::ranges::find(models_, configured.model,
                                         [](const Model& m) -> const std::string& { return m.config.id; });
    Pipeline pipeline{config_.of_pipeline(configured), model->checkpoint, {}, {}};
    actors::check_stages(pipeline.config, model->checkpoint->config());
    actors::check_rotary_table(pipeline.config, *model->checkpoint);
    pipeline.options = pipeline_options(pipeline.config, *model->checkpoint);
    pipeline.options.name = configured.name;
    pipeline.options.model = configured.model;
    pipeline.options.incarnation = incarnation_;
    pipeline.options.kv_secret = actors::derive_key(secret_, "names of KV blocks");
    auto& members = pipeline.options.members;
    members = members_->begin(configured, std::move(members));
    if (std::cmp_greater(members.stages(), pipeline.options.costs.layers))
      throw InputError("the members of pipeline " + configured.name + " have " +
                           std::to_string(members.stages()) + " stages, but " + model->config.path + " has " +
                           std::to_string(pipeline.options.costs.layers) + " layers",
                       members_->path().string(), "delete it, and add nodes that the model has layers for");
    pipelines_.push_back(std::move(pipeline));
  }
}

gateway::ServedModels Head::served_models() {
  std::vector<gateway::ServedModel> served;
  for (const Model& model : models_) {
    const auto pipeline = std::ranges::find(
        pipelines_, model.config.id, [](const Pipeline& p) -> const std::string& { return p.options.model; });
    served.push_back(served_model(pipeline->config, *model.checkpoint, model.digest));
  }
  return gateway::ServedModels(std::move(served));
}

template <class Do>
void Head::for_names_of(const Model& model, Do what) const {
  for (const Pipeline& pipeline : pipelines_) {
    if (pipeline.options.model != model.config.id) continue;
    what(pipeline.name());
    if (&pipeline == &pipelines_.front()) what(std::string());
  }
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
  cache_ =
      std::make_unique<actors::AnswerCache>(system_, cache_options(config_, url, secret_), router_,
                                            actors::GatewaysByNode{{node_, gateway_->actor()}}, metrics_);
  cache_actor_ = cache_->actor();
}

/// For machines that have not the models' files.
void Head::start_weight_servers() {
  for (Model& model : models_) {
    if (model.checkpoint->files().empty()) continue;
    model.weights = system_.spawn<caf::detached>(
        actors::weight_server,
        actors::WeightServerOptions{run_dir_, config_.link.bulk_frame_bytes_max, metrics_}, model.checkpoint);
    for_names_of(model, [&](const std::string& name) {
      links_.publish(schema::Role::WEIGHTS, actors::pipeline_instance(name),
                     caf::actor_cast<caf::actor>(model.weights));
    });
  }
}

/// Stages are linked, and answers kept, once they are known. A model that nobody has read yet may take
/// minutes, and this process has others to answer meanwhile.
void Head::find_digests() {
  std::vector<Model*> unread;
  for (Model& model : models_) {
    for_names_of(model, [&](const std::string& name) { links_.set_model(name, ""); });
    if (const auto kept = model::kept_digest(*model.checkpoint, run_dir_)) {
      found_digest(model, *kept);
      continue;
    }
    log::info("node.reads_model", {{"model", model.config.path}, {"why", "its digest is not kept yet"}});
    unread.push_back(&model);
  }
  if (unread.empty()) return;
  digest_finder_ = std::jthread([=, this](const std::stop_token& stop) {
    for (Model* model : unread) {
      const std::string digest = model::find_digest(*model->checkpoint, run_dir_, stop);
      if (!digest.empty()) found_digest(*model, digest);
    }
  });
}

void Head::found_digest(Model& model, const std::string& digest) {
  model.digest.set(digest);
  for_names_of(model, [&](const std::string& name) { links_.set_model(name, digest); });
  tell_terms();
  if (model.weights) caf::anon_send(model.weights, actors::ModelDigest{digest});
}

void Head::start_pipelines(const actors::NodeActor& node) {
  for (Pipeline& pipeline : pipelines_) {
    pipeline.actor = start_pipeline(pipeline, node);
    caf::anon_send(router_, actors::AddPipeline{pipeline.name(), pipeline.options.model, pipeline.actor});
    const auto publish = [&](const std::string& name) {
      links_.publish(schema::Role::PIPELINE, actors::pipeline_instance(name),
                     caf::actor_cast<caf::actor>(pipeline.actor));
    };
    publish(pipeline.name());
    if (&pipeline == &pipelines_.front()) publish("");
  }
}

actors::PipelineActor Head::start_pipeline(const Pipeline& pipeline, const actors::NodeActor& node) {
  actors::PipelinePeers peers;
  peers.gateways[node_] = gateway_->actor();
  peers.router = router_;
  peers.node = node;
  peers.drop = [this](const actors::PeerIdentity& peer, const std::string& reason) {
    links_.drop(peer, reason);
  };
  peers.process_state = [](const actors::PeerIdentity& peer) {
    return actors::process_state(peer.pid, std::to_string(peer.incarnation));
  };
  peers.refuse_plan = [&pipeline](const auto& plan, const auto& there) {
    return actors::refuse_plan(pipeline.config, *pipeline.checkpoint, plan, there);
  };
  peers.keep_members = [this, name = pipeline.name()](const actors::Members& members) {
    members_->keep(name, members);
  };
  peers.metrics = metrics_;
  return system_.spawn(actors::pipeline, pipeline.options, peers);
}

actors::PipelineActor Head::pipeline(const std::string& name) const {
  for (const Pipeline& pipeline : pipelines_)
    if (name.empty() || pipeline.name() == name) return pipeline.actor;
  return {};
}

void Head::add_node(const actors::NodeConfig& node) const {
  using Refused = std::optional<std::string>;
  const auto to = pipeline(node.pipeline);
  if (!to) throw InputError("there is no pipeline " + node.pipeline, "node " + node.name, "");
  const auto refused = std::make_shared<std::promise<Refused>>();
  std::future<Refused> answer = refused->get_future();
  caf::anon_send(to, actors::AddNode{{.kind = actors::MemberCommand::Kind::add,
                                      .node = node.name,
                                      .listen = node.listen,
                                      .stages = node.stages,
                                      .http = node.http},
                                     refused});
  if (answer.wait_for(pipeline_answers_within) != std::future_status::ready)
    throw InputError("the pipeline does not answer", "node " + node.name, "try again");
  if (const Refused why = answer.get()) throw InputError(*why, "node " + node.name, "");
}

void Head::hold_actors(ActorWatch& watch) const {
  for (const Pipeline& pipeline : pipelines_) watch.hold(pipeline.actor, "pipeline");
  for (const Model& model : models_)
    if (model.weights) watch.hold(model.weights, "weights");
  watch.hold(desk_, "gateway_desk");
  watch.hold(router_, "router");
  watch.hold(cache_actor_, "cache");
  watch.hold(gateway_->actor(), "gateway");
}

void Head::serve() { gateway_->serve(cache_actor_, router_, cache_ ? gateway::answer_key_of(secret_) : ""); }

std::string Head::url() const { return gateway_url(config_.gateway, gateway_->port()); }

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
  for (Pipeline& pipeline : pipelines_) actors::end_and_wait(system_, pipeline.actor);
  actors::end_and_wait(system_, router_, desk_);
  for (Model& model : models_) actors::end_and_wait(system_, model.weights);
  if (!cache_) actors::end_and_wait(system_, cache_actor_);
  cache_.reset();
}

}  // namespace convoy::cli
