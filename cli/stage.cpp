// convoy stage: one layer range in a process of its own. A node starts it; people do not.

#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include "actors/config/placement.hpp"
#include "actors/config/plan_limits.hpp"
#include "actors/pipeline_name.hpp"
#include "actors/process/child_process.hpp"
#include "actors/process/log.hpp"
#include "actors/stage/stage.hpp"
#include "actors/stage/step_codec.hpp"
#include "cli/actor_watch.hpp"
#include "cli/commands.hpp"
#include "cli/remote_model.hpp"
#include "cli/runtime.hpp"
#include "gpu/devices.hpp"
#include "gpu/stage_shape.hpp"
#include "gpu/weight_pages.hpp"
#include "model/checkpoint/kept_digest.hpp"
#include "model/error.hpp"
#include "model/memory_limit.hpp"
#include "model/out_of_memory.hpp"

namespace convoy::cli {

namespace {

struct StageArguments {
  std::string config, model, node, head_host, log;
  uint32_t instance = 0;
  uint64_t incarnation = 0;
  bool spare = false;  // instance and incarnation come later
  uint16_t head_port = 0;
  int32_t parent = 0;
};

/// Of the system that runs, containers included.
std::string machine_name() {
  std::string name;
  std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), name);
  return name;
}

/// What this process computes with, before it is known which layers.
void describe_device(actors::PeerIdentity& self, const gpu::PlacedDevice& placed,
                     const actors::ClusterConfig& config, const model::Config& model) {
  const auto shape = gpu::stage_shape(model, {0, model.layers - 1}, config.stage.deterministic);
  const auto device = placed.open(shape);
  const gpu::DeviceFacts facts = device->facts();
  const auto kv_type = actors::kv_type_named(config.stage.kv_type).value_or(facts.kv_type);
  self.kernel_variant = std::string(facts.variant) + " kv " + std::string(model::info(kv_type).name);
  self.device = placed.text();
  self.hidden_form = actors::encode(facts.hidden_form);
  self.machine = machine_name();
  self.card = facts.card;
  self.edges = facts.edges && config.stage.edges == "auto";
  self.memory_bytes = placed.card ? device->memory_bytes() : model::memory_limit().bytes;
}

/// Unless the environment says otherwise. Before there is a second thread.
void set_up_nccl() {
  // Where the ends of an edge find each other: NCCL asks nobody who they are.
  setenv("NCCL_SOCKET_IFNAME", "lo", 0);
  // Multicast over NVLink is of no use to an edge.
  setenv("NCCL_NVLS_ENABLE", "0", 0);
}

/// config: as this node's pipeline sees it. The weights of all stages of this node as configured, whose place
/// a spare may take, as far as the page cache has room for them: who takes a place copies its layers from
/// there. Until told to stop.
void fetch_weights(const actors::ClusterConfig& config, const std::string& node,
                   const model::Checkpoint& checkpoint, const std::stop_token& stop) {
  const auto began = std::chrono::steady_clock::now();
  const auto layers =
      actors::stage_layers(checkpoint.config().layers, config.stage_count(), actors::head_layers(checkpoint));
  std::vector<model::StageWeights> weights;
  for (const auto& placed : actors::place_stages(config.cluster.nodes))
    if (placed.node == node)
      for (uint32_t i = placed.first; i < placed.first + placed.count; ++i)
        weights.push_back(checkpoint.stage(layers[i]));
  const std::vector<gpu::WeightPages> stages(weights.begin(), weights.end());
  uint64_t bytes = 0;
  for (const auto& pages : stages) bytes += pages.bytes();
  if (bytes > model::memory_available().bytes)
    return log::warn("stage.spare_cold", {{"reason", "memory has no room for its node's weights"}});
  for (const auto& pages : stages)
    for (size_t i = 0; i <= pages.layers(); ++i) {
      if (stop.stop_requested()) return;
      pages.fetch(i);
    }
  log::info("stage.spare_warm",
            {{"bytes", bytes},
             {"took_s", std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count()}});
}

/// Of a spare: until its node says whose place it takes. Leaves the process if that never comes. Meanwhile it
/// gets ready what a place needs and takes no memory that the system could not take back: the devices'
/// library, and pages of weights. A card's device reads ahead itself.
void await_place(StageArguments& args, const actors::ClusterConfig& config,
                 const model::Checkpoint* checkpoint) {
  const bool on_card = actors::place_stage(config, {}).card.has_value();
  std::jthread warming([&, on_card](const std::stop_token& stop) {
    try {
      if (!on_card && checkpoint) fetch_weights(config, args.node, *checkpoint, stop);
    } catch (const std::exception& e) {  // who takes a place meets it again
      log::warn("stage.spare_cold", {{"reason", reason_of(e)}});
    }
  });
  log::info("stage.spare_waits", {{"pid", getpid()}});
  if (!(std::cin >> args.instance >> args.incarnation)) _exit(ok);
}

int run_stage(StageArguments args) {
  actors::die_with_parent(args.parent);
  block_signals();
  raise_descriptor_limit();
  set_up_nccl();
  auto cluster = actors::load_cluster_config(args.config);
  if (!args.model.empty()) actors::replace_model(cluster, args.model);
  const actors::NodeConfig& node = *cluster.find_node(args.node);
  const actors::ClusterConfig config = cluster.of_pipeline(*cluster.find_pipeline(node.pipeline));
  std::shared_ptr<const model::Checkpoint> checkpoint;  // null: it has to come from the head
  std::string digest;
  if (model::Checkpoint::is_there(config.cluster.model)) {
    checkpoint = model::Checkpoint::open(config.cluster.model);
    digest = model::find_digest(*checkpoint, config.cluster.run_dir);
  }
  if (args.spare) {
    log::configure(config.log.level, config.log.json, "spare");
    await_place(args, config, checkpoint.get());
  }
  log::configure(config.log.level, config.log.json, "stage" + std::to_string(args.instance));

  ActorSystemConfig system_config;
  caf::actor_system system(system_config);
  std::optional<RemoteModel> remote;
  if (!checkpoint) {
    remote.emplace(system, config, args.node, node.pipeline, args.head_host, args.head_port);
    checkpoint = remote->await_model();
    digest = checkpoint->weights_digest();
  }

  actors::StageOptions options;
  options.instance = args.instance;
  options.node = args.node;
  options.pipeline = node.pipeline;
  options.kv_type = actors::kv_type_named(config.stage.kv_type);
  options.deterministic = config.stage.deterministic;
  const auto placed =
      actors::place_stage(config, actors::local_rank(cluster.cluster.nodes, args.node, args.instance));
  log::info("stage.device",
            {{"stage", args.instance}, {"device", placed.text()}, {"sharers", placed.sharers}});
  options.device = placed.open;
  options.sharers = placed.sharers;
  options.second_tier = {config.stage.kv_host_bytes, config.stage.kv_disk_bytes, config.stage.kv_disk_dir};
  options.context_tokens = actors::served_context(config, checkpoint->config());
  options.rows_per_step = actors::scheduler_limits(config, checkpoint->config()).rows();
  options.report_ms = std::max(1u, config.pipeline.failure_detection_ms / 4);

  actors::PeerIdentity self;
  self.node = args.node;
  self.pipeline = node.pipeline;
  self.role = schema::Role::STAGE;
  self.instance = args.instance;
  self.incarnation = args.incarnation;
  self.pid = getpid();
  describe_device(self, placed, config, checkpoint->config());
  self.model = digest;
  self.settings = actors::settings_of(config);
  self.listen_host = node.listen_host();
  options.own = self;
  options.edge_timeout_ms = config.stage.edge_timeout_ms;

  ActorWatch watch;
  actors::StageActor actor;
  std::unique_ptr<actors::Links> links;
  const auto find_head = [&] { links->connect(args.head_host, args.head_port, config.link.head_timeout_ms); };
  actors::Links::Events events;
  events.up = [&](const actors::PeerIdentity& peer) { caf::anon_send(actor, actors::PeerUp{peer}); };
  // It keeps its weights for the next one.
  events.down = [&](const actors::PeerIdentity& peer, const std::string& reason) {
    if (peer.role != schema::Role::NODE) return;
    log::warn("stage.head_lost", {{"stage", args.instance}, {"reason", reason}});
    find_head();
  };
  const std::string head_address = args.head_host + ":" + std::to_string(args.head_port);
  events.refused = [&](const std::string& address, const std::string& reason) {
    if (address != head_address) return caf::anon_send(actor, actors::PeerRefused{address, reason});
    // Nobody comes, or one that this process does not fit: the next one reads all anew.
    log::warn("stage.head_unreachable", {{"stage", args.instance}, {"address", address}, {"reason", reason}});
    kill(getpid(), SIGTERM);
  };
  links = std::make_unique<actors::Links>(system, link_options(cluster, args.node), self, events);

  actors::StageLinks reach;
  reach.pipeline = [&](const actors::PeerIdentity& head) {
    return links->remote<actors::PipelineActor>(head, schema::Role::PIPELINE,
                                                actors::pipeline_instance(node.pipeline));
  };
  reach.next_stage = [&](const actors::PeerIdentity& next) {
    return links->remote<actors::StageActor>(next, schema::Role::STAGE, next.instance);
  };
  reach.connect = [&](const std::string& host, uint16_t port) {
    links->connect(host, port, config.link.handshake_timeout_ms);
  };
  if (remote) reach.fetcher = remote->fetcher();
  reach.threads = {links->io_thread()};
  actor = system.spawn<caf::detached>(actors::stage, options, checkpoint, reach);
  watch.hold(actor, "stage");
  if (remote) watch.hold(remote->fetcher(), "weight_fetcher");
  links->publish(schema::Role::STAGE, args.instance, caf::actor_cast<caf::actor>(actor));
  links->listen(self.listen_host, 0);
  find_head();

  log::LogFile log(args.log, {});  // its node rotates it
  tend_until_told(log, [] { return true; });
  // Nothing here needs saving, and a step on the device may take long: leave at once.
  _exit(watch.exit_code(ok));
}

}  // namespace

void add_stage(CLI::App& app, int& exit_code) {
  auto args = std::make_shared<StageArguments>();
  auto* command = app.add_subcommand("stage", "Runs one stage (started by its node)");
  command->group("");
  command->add_option("--config", args->config)->required();
  command->add_option("--model", args->model);
  command->add_option("--node", args->node)->required();
  command->add_option("--instance", args->instance);
  command->add_option("--incarnation", args->incarnation);
  command->add_flag("--spare", args->spare);
  command->add_option("--head-host", args->head_host)->required();
  command->add_option("--head-port", args->head_port)->required();
  command->add_option("--parent", args->parent)->required();
  command->add_option("--log", args->log);
  command->callback([args, &exit_code] { exit_code = run_stage(*args); });
}

}  // namespace convoy::cli
