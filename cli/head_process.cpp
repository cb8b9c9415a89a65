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

#include "actors/node.hpp"
#include "actors/process/child_process.hpp"
#include "actors/process/log.hpp"
#include "cli/actor_watch.hpp"
#include "cli/commands.hpp"
#include "cli/head.hpp"
#include "cli/port_holder.hpp"
#include "cli/run_dir.hpp"
#include "cli/runtime.hpp"
#include "model/error.hpp"

namespace convoy::cli {

namespace fs = std::filesystem;
using actors::ClusterConfig;

namespace {

constexpr auto drain_poll = std::chrono::milliseconds(20);
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
    head_.emplace(system_, config_, name_, *links_).start();
    spawn_node_actor();
    watch_.hold(node_, "node");
    head_->start_pipeline(node_);
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
      if (peer.role != schema::Role::STAGE) return caf::anon_send(node_, actors::PeerUp{peer});
      caf::anon_send(head_->pipeline(), actors::StageUp{peer, links_->remote<actors::StageActor>(
                                                                  peer, schema::Role::STAGE, peer.instance)});
    };
    events.down = [this](const actors::PeerIdentity& peer, const std::string& reason) {
      if (peer.role == schema::Role::STAGE) return;  // its handles went down: the pipeline knows
      caf::anon_send(node_, actors::PeerDown{peer, reason});
    };
    links_ = std::make_unique<actors::Links>(system_, link_options(config_, name_), self, events);
  }

  void spawn_node_actor() {
    actors::NodeEffects effects;
    effects.node_handle = [this](const actors::PeerIdentity& peer) {
      return links_->remote<actors::NodeActor>(peer, schema::Role::NODE, 0);
    };
    effects.client_handle = [this](const actors::PeerIdentity& peer) {
      return links_->remote<actors::ClientActor>(peer, schema::Role::CLIENT, 0);
    };
    effects.shut_down = [] { kill(getpid(), SIGTERM); };
    actors::NodeFacts facts;
    // Not asked of the gateway: while this process ends, that is gone before the node actor.
    facts.gateway_url = [this] {
      const std::lock_guard lock(file_mutex_);
      return file_.gateway_url;
    };
    facts.redis_json = [this] { return head_->redis_json(); };
    facts.draining = [this] { return draining_.load(); };
    node_ =
        system_.spawn(actors::node, actors::NodeOptions{config_, name_, true, args_.parent}, facts, effects);
    links_->publish(schema::Role::NODE, 0, caf::actor_cast<caf::actor>(node_));
  }

  /// Answers under way go on until they end, for drain_timeout_ms at most, or until this process is told
  /// again.
  void drain() {
    const auto began = std::chrono::steady_clock::now();
    const auto took_ms = [began] {
      return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - began)
          .count();
    };
    log::info("head.draining", {{"timeout_ms", config_.gateway.drain_timeout_ms}});
    draining_ = true;
    const auto drained = head_->drain();
    bool told_again = false;
    while (drained.wait_for(drain_poll) != std::future_status::ready && !told_again &&
           took_ms() < config_.gateway.drain_timeout_ms) {
      const int signal = await_signal({});
      told_again = signal == SIGTERM || signal == SIGINT;
    }
    if (drained.wait_for(std::chrono::seconds(0)) == std::future_status::ready)
      log::info("head.drained", {{"took_ms", took_ms()}});
    else
      log::warn("head.answers_cut",
                {{"after_ms", took_ms()},
                 {"reason", told_again ? "told to end again" : "gateway.drain_timeout_ms"}});
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
  std::mutex file_mutex_;
  NodeFile file_;  // what run_dir_ says of us; the main thread alone writes, under file_mutex_
  bool file_written_ = false;
  ActorSystemConfig system_config_;
  caf::actor_system system_;
  std::unique_ptr<actors::Links> links_;
  std::optional<Head> head_;
  actors::NodeActor node_;
};

int run_head(const HeadArguments& args) {
  actors::die_with_parent(args.parent);
  block_signals();
  auto config = actors::load_cluster_config(args.config);
  if (!args.model.empty()) {
    config.cluster.model = args.model;
    config.cluster.model_id = actors::default_model_id(config.cluster.model);
  }
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
