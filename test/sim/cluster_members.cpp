#include "test/sim/cluster_members.hpp"

#include "actors/pipeline_name.hpp"
#include "test/gpu/tiny_model.hpp"

namespace sim {

using namespace convoy;

namespace {

const auto& checkpoint() {
  static const auto tiny =
      std::make_shared<const gpu::test::TinyCheckpoint>(model::DType::f32, gpu::test::Tiny::llama, vocab);
  return tiny;
}

/// Stands for an actor that the simulation plays: hands on what it is sent.
class Mailbox final : public caf::actor_proxy {
 public:
  using Hear = std::function<void(caf::message)>;
  Mailbox(caf::actor_config& config, Hear hear) : actor_proxy(config), hear_(std::move(hear)) {}
  void enqueue(caf::mailbox_element_ptr what, caf::execution_unit*) override {
    if (!what->content().empty()) hear_(what->move_content_to_message());
  }
  void kill_proxy(caf::execution_unit* host, caf::error reason) override { cleanup(std::move(reason), host); }
  const char* name() const override { return "mailbox"; }

  static caf::actor make(caf::actor_system& system, Hear hear) {
    const auto node = caf::make_node_id(1, "0000000000000000000000000000000000000002");
    caf::actor_config config;
    return caf::make_actor<Mailbox, caf::actor>(system.next_actor_id(), *node, &system, config,
                                                std::move(hear));
  }

 private:
  const Hear hear_;
};

}  // namespace

// ---- stage ----

StageMember::StageMember(const Site& site, actors::PeerIdentity self, Orders orders)
    : process_(site.timeline, std::move(self)),
      links_(
          site.network, process_,
          {.up = [this](const actors::PeerIdentity& peer) { caf::anon_send(actor_, actors::PeerUp{peer}); },
           .down =
               [this](const actors::PeerIdentity& peer, const std::string&) {
                 if (peer.role == schema::Role::NODE) find_head();
               },
           .refused =
               [this, gives_up = orders.gives_up](const std::string& address, const std::string& reason) {
                 if (address == head_host + (":" + std::to_string(head_port))) return gives_up();
                 caf::anon_send(actor_, actors::PeerRefused{address, reason});
               }}) {
  const actors::SchedulerLimits& limits = site.world.limits;
  actors::StageOptions options;
  options.instance = process_.self().instance;
  options.node = process_.self().node;
  options.pipeline = process_.self().pipeline;
  options.device = [device = device_site(site, orders)](const gpu::StageShape& shape) {
    return std::make_unique<HashDevice>(shape, device);
  };
  options.context_tokens = limits.context_tokens;
  options.rows_per_step = limits.rows();
  options.report_ms = site.world.lease_ms / 4;
  options.own = process_.self();
  actors::StageLinks reach;
  reach.pipeline = [this](const actors::PeerIdentity& head) {
    return links_.remote<actors::PipelineActor>(head, schema::Role::PIPELINE,
                                                actors::pipeline_instance(process_.self().pipeline));
  };
  reach.next_stage = [this](const actors::PeerIdentity& next) {
    return links_.remote<actors::StageActor>(next, schema::Role::STAGE, next.instance);
  };
  reach.connect = [this](const std::string& host, uint16_t port) {
    links_.connect(host, port, handshake_timeout_ms);
  };
  // Not detached: the fiber is its thread.
  actor_ = process_.system().spawn(actors::stage, options, checkpoint(), reach);
  process_.hold_blocking(caf::actor_cast<caf::actor>(actor_));
  links_.publish(schema::Role::STAGE, options.instance, caf::actor_cast<caf::actor>(actor_));
  links_.listen();
  find_head();
}

DeviceSite StageMember::device_site(const Site& site, Orders& orders) {
  DeviceSite device;
  device.now = [&timeline = site.timeline] { return timeline.now(); };
  device.sleep_until = [this](Timeline::Time until) { process_.sleep_until(until); };
  device.step_time = [&world = site.world, &random = site.random,
                      slowness = site.world.nodes.at(place()).slowness](size_t rows) {
    const double mean_us = slowness * (world.fixed_us + world.per_row_us * static_cast<double>(rows));
    return us(mean_us / 2 + random.time(mean_us / 2));
  };
  device.load_time = us(site.world.load_us);
  device.depth = site.world.device_depth;
  device.hangs = [this] { return hung_ = hung_ || std::exchange(hangs_next_, false); };
  device.skips = orders.skips;
  return device;
}

void StageMember::end() {
  process_.end([this] { links_.die(), actor_ = nullptr; });
}

// ---- head ----

namespace {

/// The node actor's part.
void hear_as_node(const caf::message& said, const HeadMember::Orders& orders) {
  if (said.match_elements<actors::Frame<schema::ReplaceStage>>()) {
    const schema::Reading order(said.get_as<actors::Frame<schema::ReplaceStage>>(0));
    orders.replace(place_of(order->getNode().cStr()), order->getIncarnation());
  } else if (said.match_elements<actors::Frame<schema::PipelineState>>()) {
    const schema::Reading state(said.get_as<actors::Frame<schema::PipelineState>>(0));
    using State = schema::Member::State;
    for (const auto member : state->getMembers())
      orders.keep(place_of(member.getNode().cStr()),
                  member.getState() == State::JOINING || member.getState() == State::SERVING);
  }
}

}  // namespace

HeadMember::HeadMember(const Site& site, actors::PeerIdentity self, Orders orders)
    : believes_links_(orders.believes_links),
      process_(site.timeline, std::move(self)),
      links_(site.network, process_,
             {.up = [this](const actors::PeerIdentity& peer) { stage_up(peer); },
              .down = [](const actors::PeerIdentity&, const std::string&) {},
              .refused = nullptr}) {
  actors::PipelinePeers peers;
  auto& system = process_.system();
  // Not within an actor's own turn.
  const auto later = [this, &timeline = site.timeline](Mailbox::Hear hear) -> Mailbox::Hear {
    return [this, &timeline, hear = std::move(hear)](caf::message said) {
      timeline.at(timeline.now(), [this, hear, said] {
        if (process_.lives()) hear(said);
      });
    };
  };
  peers.gateways["head"] =
      caf::actor_cast<actors::GatewayActor>(Mailbox::make(system, later(orders.to_gateway)));
  router_ =
      system.spawn(actors::router, actors::RouterOptions{site.world.readiness_period_ms}, peers.gateways);
  process_.hold(caf::actor_cast<caf::actor>(router_));
  peers.router = router_;
  peers.node = caf::actor_cast<actors::NodeActor>(
      Mailbox::make(system, later([orders](const caf::message& said) { hear_as_node(said, orders); })));
  peers.drop = [this](const actors::PeerIdentity& peer, const std::string& reason) {
    links_.drop(peer, reason);
  };
  peers.process_state = orders.process_state;
  peers.metrics = metrics_;
  peers.wall_clock_ms = [&timeline = site.timeline] { return wall_ms(timeline); };
  for (size_t i = 0; i < site.world.pipelines; ++i) {
    const std::string name = name_of_pipeline(i);
    peers.keep_members = [name, keep = orders.keep_members](const actors::Members& members) {
      keep(name, members);
    };
    start_pipeline(name, site, orders.members.at(name), peers);
  }
  links_.listen();
}

void HeadMember::start_pipeline(const std::string& name, const Site& site, const actors::Members& members,
                                const actors::PipelinePeers& peers) {
  const ClusterWorld& world = site.world;
  actors::PipelineOptions options;
  options.name = name;
  options.model = model_id;
  options.incarnation = process_.self().incarnation;
  options.limits = world.limits;
  options.members = members;
  options.costs.layers = cluster_layers;
  options.rebalance_steps = world.rebalance_steps;
  options.step_timeout_ms = world.step_timeout_ms;
  options.readiness_period_ms = world.readiness_period_ms;
  options.load_timeout_ms = world.load_timeout_ms;
  options.failure_detection_ms = world.lease_ms;
  options.kv_secret = "secret";
  const auto pipeline = process_.system().spawn(actors::pipeline, options, peers);
  process_.hold(caf::actor_cast<caf::actor>(pipeline));
  caf::anon_send(router_, actors::AddPipeline{name, model_id, pipeline});
  const auto publish = [&](const std::string& by) {
    links_.publish(schema::Role::PIPELINE, actors::pipeline_instance(by),
                   caf::actor_cast<caf::actor>(pipeline));
  };
  publish(name);
  if (pipelines_.empty()) publish("");
  pipelines_.push_back(pipeline);
}

void HeadMember::stage_up(const actors::PeerIdentity& peer) {
  const auto stage = links_.remote<actors::StageActor>(peer, schema::Role::STAGE, peer.instance);
  const actors::PipelineActor& pipeline =
      pipelines_.at(peer.pipeline.empty() ? 0 : pipeline_named(peer.pipeline));
  caf::anon_send(pipeline, actors::StageUp{peer, stage});
  if (!believes_links_) return;
  schema::FrameBuilder<schema::StageReport> frame;
  frame->setPipeline(peer.pipeline);
  frame->setInstance(peer.instance);
  frame->setHealth(schema::Health::LOADING);
  caf::send_as(stage, pipeline, std::move(frame).finish());
}

uint64_t HeadMember::rebalanced() const {
  double times = 0;
  for (const auto& family : metrics_->Collect())
    if (family.name == "convoy_rebalanced_total")
      for (const auto& of_pipeline : family.metric) times += of_pipeline.counter.value;
  return static_cast<uint64_t>(times);
}

void HeadMember::end() {
  process_.end([this] { links_.die(), router_ = nullptr, pipelines_.clear(); });
}

}  // namespace sim
