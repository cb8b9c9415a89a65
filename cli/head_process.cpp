// convoy head: gateway, cache, router and pipeline in a process of their own. The head's node starts it, and
// another one when it ends before its time, which finds the stages as they are; people do not.

#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <mutex>
#include <optional>

#include "actors/link/enrolment.hpp"
#include "actors/link/link_tls.hpp"
#include "actors/node.hpp"
#include "actors/process/child_process.hpp"
#include "actors/process/log.hpp"
#include "actors/process/wall_clock.hpp"
#include "cli/actor_watch.hpp"
#include "cli/commands.hpp"
#include "cli/head.hpp"
#include "cli/port_holder.hpp"
#include "cli/run_dir.hpp"
#include "cli/runtime.hpp"
#include "model/error.hpp"
#include "model/text_file.hpp"

namespace convoy::cli {

namespace fs = std::filesystem;
using actors::ClusterConfig;

namespace {

constexpr auto drain_told_within = std::chrono::seconds(1);

struct HeadArguments {
  std::string config, model, log;
  uint64_t incarnation = 0;
  uint16_t link_port = 0;  // as configured, or what an earlier head took
  int32_t parent = 0;
};

class HeadProcess {
 public:
  HeadProcess(ClusterConfig config, const HeadArguments& args)
      : config_(std::move(config)),
        args_(args),
        name_(config_.head().name),
        run_dir_(config_.cluster.run_dir),
        lock_(head_lock_file(run_dir_), "the head of this cluster", args.incarnation),
        system_(system_config_) {}

  int run() {
    try {
      start();
    } catch (...) {
      stop();  // whatever runs already must not keep the process alive
      throw;
    }
    log::LogFile log(args_.log, {});  // its node rotates it
    tend_until_told(log, [this] {
      head_->look();
      connections_ = head_->connections();
      if (!file_written_) write_file();
      return true;
    });
    if (watch_.exit_code(ok) == ok) drain();
    log::info("head.stopping");
    stop();
    return watch_.exit_code(ok);
  }

 private:
  void start() {
    check_descriptors();
    remove_node_file(run_dir_, head_entry);  // of an earlier process, which was killed
    connect_links();
    head_.emplace(system_, config_, name_, args_.incarnation, *links_, metrics_).start();
    spawn_node_actor();
    watch_.hold(node_, "node");
    head_->start_pipelines(node_);
    head_->hold_actors(watch_);
    const uint16_t port = listen_or_explain(*links_, config_, config_.head(), args_.link_port);
    head_->serve();
    {
      const std::lock_guard lock(file_mutex_);
      file_ = {args_.incarnation, port, head_->url(), {}};
    }
    write_file();
    log::info("head.started", {{"link_port", port}, {"gateway", head_->url()}});
  }

  /// Where commands find this process. On a full disk it serves all the same, and tries again.
  void write_file() {
    try {
      write_node_file(run_dir_, head_entry, file_);
      file_written_ = true;
    } catch (const InputError& e) {
      log::warn_limited("head.file_not_written", {{"reason", e.what()}});
    }
  }

  /// Every connection takes a descriptor, and so do links, logs and the model's files.
  void check_descriptors() const {
    const uint64_t limit = raise_descriptor_limit();
    const uint64_t wanted = config_.gateway.connections_max + config_.gateway.descriptors_reserved;
    if (limit < wanted)
      log::warn("head.few_descriptors", {{"limit", limit},
                                         {"gateway.connections_max", config_.gateway.connections_max},
                                         {"wanted", wanted},
                                         {"mend", "raise the limit (ulimit -Hn), or lower connections_max"}});
  }

  /// Every callback posts to an actor; none blocks the links' thread.
  void connect_links() {
    actors::PeerIdentity self;
    self.node = name_;
    self.role = schema::Role::NODE;
    self.incarnation = args_.incarnation;
    self.pid = getpid();
    self.settings = actors::settings_of(config_);
    actors::Links::Events events;
    events.up = [this](const actors::PeerIdentity& peer) {
      if (peer.role == schema::Role::GATEWAY) {
        ++gateways_linked_;
        head_->gateway_up(peer.node, gateway_handle(peer));
      }
      if (peer.role != schema::Role::STAGE) return caf::anon_send(node_, actors::PeerUp{peer});
      const auto pipeline = head_->pipeline(peer.pipeline);
      if (!pipeline) return;  // the links took none of such a name
      caf::anon_send(pipeline, actors::StageUp{peer, links_->remote<actors::StageActor>(
                                                         peer, schema::Role::STAGE, peer.instance)});
    };
    events.down = [this](const actors::PeerIdentity& peer, const std::string& reason) {
      if (peer.role == schema::Role::GATEWAY) --gateways_linked_;
      if (peer.role == schema::Role::STAGE) return;  // its handles went down: the pipeline knows
      caf::anon_send(node_, actors::PeerDown{peer, reason});
    };
    auto options = link_options(config_, name_);
    options.metrics = metrics_;
    // Of nodes that joined since cluster.conf was read too. Asked once connections are taken.
    options.places.has_gateway = [this](const std::string& node) { return head_->has_gateway(node); };
    tls_ = options.tls;
    if (tls_) {
      enrolment_ = std::make_unique<actors::Enrolment>(enrolment_options());
      options.enrol = [this](const std::string& key, const schema::FrameBytes& said,
                             const schema::FrameBytes& proof) {
        return enrolment_->answer(key, said, proof);
      };
      options.renew = [this](const std::string& node, const std::string& request) {
        return enrolment_->renew(node, request);
      };
    }
    links_ = std::make_unique<actors::Links>(system_, std::move(options), self, events);
  }

  actors::GatewayActor gateway_handle(const actors::PeerIdentity& peer) const {
    return links_->remote<actors::GatewayActor>(peer, schema::Role::GATEWAY, 0);
  }

  actors::EnrolmentOptions enrolment_options() const {
    actors::EnrolmentOptions options;
    options.cluster = config_.cluster.name;
    options.tls_dir = config_.cluster.tls_dir;
    options.configuration =
        model::read_text_file(config_.file, actors::config_bytes_max, "give one smaller than 1 MiB");
    // Asked once connections are taken, and the head is there by then.
    options.nodes = [this] { return head_->nodes(); };
    options.add_member = [this](const actors::NodeConfig& node) { head_->add_node(node); };
    options.now_s = actors::unix_s;
    return options;
  }

  void spawn_node_actor() {
    actors::NodeEffects effects;
    effects.node_handle = [this](const actors::PeerIdentity& peer) {
      return links_->remote<actors::NodeActor>(peer, schema::Role::NODE, 0);
    };
    effects.client_handle = [this](const actors::PeerIdentity& peer) {
      return links_->remote<actors::ClientActor>(peer, schema::Role::CLIENT, 0);
    };
    effects.gateway_handle = [this](const actors::PeerIdentity& peer) { return gateway_handle(peer); };
    effects.shut_down = [this] {
      all_end_ = true;
      kill(getpid(), SIGTERM);
    };
    actors::NodeFacts facts;
    facts.gateway_connections = [this] { return connections_.load(); };
    // Not asked of the gateway: while this process ends, that is gone before the node actor.
    facts.gateway_url = [this] {
      const std::lock_guard lock(file_mutex_);
      return file_.gateway_url;
    };
    facts.redis_json = [this] { return head_->redis_json(); };
    facts.pipeline_of = [this](const std::string& node) { return head_->pipeline_of(node); };
    facts.draining = [this] { return draining_.load(); };
    if (tls_) facts.certificate_until_s = [this] { return tls_->until_s(); };
    node_ =
        system_.spawn(actors::node, actors::NodeOptions{config_, name_, true, args_.parent}, facts, effects);
    links_->publish(schema::Role::NODE, 0, caf::actor_cast<caf::actor>(node_));
  }

  /// Answers under way go on until they end, for drain_timeout_ms at most, or until this process is told
  /// again. Those of other gateways go on in the next head, unless the whole cluster ends.
  void drain() {
    draining_ = true;
    const auto drained = head_->drain();
    await_drained("head", drained, config_.gateway.drain_timeout_ms,
                  [this] { return !all_end_ || gateways_linked_ == 0; });
    tell_drained();
  }

  /// Before the node actor ends, whose mail would wait behind that.
  void tell_drained() {
    caf::scoped_actor self(system_);
    self->request(node_, drain_told_within, actors::Drained{})
        .receive([] {},
                 [](const caf::error& e) {
                   log::warn("head.nodes_not_told", {{"reason", caf::to_string(e)}});
                 });
  }

  /// From the edge inwards: no new requests, then no actors, then no links.
  void stop() {
    watch_.let_go();
    if (head_) head_->close();
    actors::end_and_wait(system_, node_);
    if (head_) head_->end_actors();
    if (links_) links_->close();  // their events use the pointer
    links_.reset();
    head_.reset();
    remove_node_file(run_dir_, head_entry);
  }

  const ClusterConfig config_;
  const HeadArguments args_;
  const std::string name_;  // of the node that it belongs to
  const fs::path run_dir_;
  const ProcessLock lock_;
  ActorWatch watch_;
  std::atomic<bool> draining_ = false;
  std::atomic<uint32_t> connections_ = 0;      // of the gateway here
  std::atomic<bool> all_end_ = false;          // the whole cluster is to end
  std::atomic<uint32_t> gateways_linked_ = 0;  // of other processes
  std::mutex file_mutex_;
  NodeFile file_;  // what run_dir_ says of us; the main thread alone writes, under file_mutex_
  bool file_written_ = false;
  ActorSystemConfig system_config_;
  caf::actor_system system_;
  const std::shared_ptr<prometheus::Registry> metrics_ = std::make_shared<prometheus::Registry>();
  std::shared_ptr<actors::LinkTls> tls_;          // null: links are plaintext
  std::unique_ptr<actors::Enrolment> enrolment_;  // null as well
  std::unique_ptr<actors::Links> links_;
  std::optional<Head> head_;
  actors::NodeActor node_;
};

int run_head(const HeadArguments& args) {
  actors::die_with_parent(args.parent);
  block_signals();
  auto config = actors::load_cluster_config(args.config);
  if (!args.model.empty()) actors::replace_model(config, args.model);
  log::configure(config.log.level, config.log.json, "head");
  umask(077);
  return HeadProcess(config, args).run();
}

}  // namespace

void add_head(CLI::App& app, int& exit_code) {
  auto args = std::make_shared<HeadArguments>();
  auto* command = app.add_subcommand("head", "Runs the head (started by its node)");
  command->group("");
  command->add_option("--config", args->config)->required();
  command->add_option("--model", args->model);
  command->add_option("--incarnation", args->incarnation)->required();
  command->add_option("--link-port", args->link_port);
  command->add_option("--parent", args->parent)->required();
  command->add_option("--log", args->log);
  command->callback([args, &exit_code] { exit_code = run_head(*args); });
}

}  // namespace convoy::cli
