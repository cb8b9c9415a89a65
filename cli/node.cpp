// convoy node: runs one node of the configuration. The head node runs gateway, cache, router and pipeline in
// this process; every node runs its stages in processes of their own.

#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <mutex>
#include <optional>

#include "actors/config/placement.hpp"
#include "actors/config/plan_limits.hpp"
#include "actors/node.hpp"
#include "actors/process/log.hpp"
#include "actors/supervisor.hpp"
#include "cli/actor_watch.hpp"
#include "cli/cluster_client.hpp"
#include "cli/commands.hpp"
#include "cli/head.hpp"
#include "cli/port_holder.hpp"
#include "cli/run_dir.hpp"
#include "cli/runtime.hpp"
#include "cli/unavailable.hpp"
#include "model/checkpoint/checkpoint.hpp"
#include "model/checkpoint/random_model.hpp"
#include "model/error.hpp"
#include "model/memory_limit.hpp"

namespace convoy::cli {

namespace fs = std::filesystem;
using actors::ClusterConfig;

namespace {

constexpr auto drain_poll = std::chrono::milliseconds(20);
constexpr auto drain_told_within = std::chrono::seconds(1);

class NodeProcess {
 public:
  NodeProcess(ClusterConfig config, const std::string& name, std::string model_override, std::string log)
      : config_(std::move(config)),
        name_(name),
        model_override_(std::move(model_override)),
        log_path_(std::move(log)),
        here_(*config_.find_node(name)),
        is_head_(config_.head().name == name),
        run_dir_(config_.cluster.run_dir),
        incarnation_(actors::new_incarnation()),
        lock_(node_lock_file(run_dir_, name), "node " + name, incarnation_),
        log_(log_path_, rotation()),
        system_(system_config_) {}

  int run() {
    try {
      start();
    } catch (...) {
      stop();  // whatever runs already must not keep the process alive
      throw;
    }
    tend_until_told(log_, [this] { return tend(); });
    if (head_ && watch_.exit_code(exit_code_) == ok) drain();
    log::info("node.stopping", {{"node", name_}});
    stop();
    return watch_.exit_code(exit_code_);
  }

 private:
  void start() {
    check_descriptors();
    remove_node_file(run_dir_, name_);  // of an earlier process, which was killed
    connect_links();
    if (is_head_) head_.emplace(system_, config_, name_, *links_).start();
    spawn_node_actor();
    watch_.hold(node_, "node");
    if (head_) {
      head_->start_pipeline(node_);
      head_->hold_actors(watch_);
    }
    const uint16_t port = listen();
    link_port_ = head_ ? port : config_.head().listen_port();
    head_ ? head_->serve() : connect_to_head();
    const std::string url = head_ ? head_->url() : "";
    {
      const std::lock_guard lock(file_mutex_);
      file_ = {incarnation_, port, url, {}};
      write_node_file(run_dir_, name_, file_);
    }
    start_stages();
    log::info("node.started", {{"node", name_}, {"link_port", port}, {"gateway", url}});
  }

  log::LogRotation rotation() const { return {config_.log.file_bytes_max, config_.log.files_max}; }

  /// Every connection takes a descriptor, and so do links, logs and the model's files.
  void check_descriptors() const {
    const uint64_t limit = raise_descriptor_limit();
    const uint64_t wanted = config_.gateway.connections_max + config_.gateway.descriptors_reserved;
    if (is_head_ && limit < wanted)
      log::warn("node.few_descriptors", {{"limit", limit},
                                         {"gateway.connections_max", config_.gateway.connections_max},
                                         {"wanted", wanted},
                                         {"mend", "raise the limit (ulimit -Hn), or lower connections_max"}});
  }

  void check_memory() const {
    if (here_.stages == 0) return;
    std::shared_ptr<const model::Checkpoint> checkpoint;
    try {
      checkpoint = model::Checkpoint::open(config_.cluster.model);
      actors::check_stages(config_, checkpoint->config());
    } catch (const InputError& e) {  // the stages end with it, too
      return log::warn("node.memory_unknown", {{"reason", e.what()}});
    }
    if (const auto warning = actors::memory_warning(config_, *checkpoint, {name_}, model::memory_limit()))
      log::warn("node.little_memory", {{"reason", *warning}});
  }

  uint16_t listen() {
    try {
      return links_->listen(here_.listen_host(), here_.listen_port());
    } catch (const InputError&) {
      const auto holder = port_holder(here_.listen_host(), here_.listen_port());
      if (!holder) throw;
      throw Unavailable(port_held_text(*holder, here_.listen_port(), listen_key(config_, name_)));
    }
  }

  void connect_to_head() {
    links_->connect(config_.head().listen_host(), config_.head().listen_port(), config_.link.head_timeout_ms);
  }

  /// Every second, on the main thread. A cluster whose run directory was deleted cannot be found by any
  /// command any more, so it ends.
  bool tend() {
    log::rotate(run_dir_ / "redis.log", rotation());
    if (lock_.still_there()) return true;
    log::error("node.run_dir_deleted", {{"run_dir", run_dir_.string()}});
    exit_code_ = unavailable;
    return false;
  }

  /// Answers under way go on until they end, for drain_timeout_ms at most, or until this process is told
  /// again.
  void drain() {
    const auto began = std::chrono::steady_clock::now();
    const auto took_ms = [began] {
      return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() - began)
          .count();
    };
    log::info("node.draining", {{"node", name_}, {"timeout_ms", config_.gateway.drain_timeout_ms}});
    draining_ = true;
    const auto drained = head_->drain();
    bool told_again = false;
    while (drained.wait_for(drain_poll) != std::future_status::ready && !told_again &&
           took_ms() < config_.gateway.drain_timeout_ms) {
      const int signal = await_signal({});
      if (signal == SIGHUP) log_.reopen();
      told_again = signal == SIGTERM || signal == SIGINT;
    }
    if (drained.wait_for(std::chrono::seconds(0)) == std::future_status::ready)
      log::info("node.drained", {{"node", name_}, {"took_ms", took_ms()}});
    else
      log::warn("node.answers_cut",
                {{"node", name_},
                 {"after_ms", took_ms()},
                 {"reason", told_again ? "told to end again" : "gateway.drain_timeout_ms"}});
    tell_drained();
  }

  /// Before this node's actor ends, whose mail would wait behind that.
  void tell_drained() {
    caf::scoped_actor self(system_);
    self->request(node_, drain_told_within, actors::Drained{})
        .receive([] {},
                 [](const caf::error& e) {
                   log::warn("node.others_not_told", {{"reason", caf::to_string(e)}});
                 });
  }

  /// `convoy up` reads there that a stage cannot start. On the supervisor's thread.
  void stage_ended(const actors::Supervisor::Child& child) {
    if (child.crashes == 0) return;
    const std::lock_guard lock(file_mutex_);
    std::erase_if(file_.crashing, [&](const auto& c) { return c.instance == child.instance; });
    file_.crashing.push_back({child.instance, child.crashes, child.last_end});
    try {
      write_node_file(run_dir_, name_, file_);
    } catch (const InputError& e) {
      log::warn_limited("node.file_not_written", {{"reason", e.what()}});
    }
  }

  /// Every callback posts to an actor or ends the process; none blocks the links' thread.
  void connect_links() {
    actors::PeerIdentity self;
    self.node = name_;
    self.role = schema::Role::NODE;
    self.incarnation = incarnation_;
    self.pid = getpid();
    self.settings = actors::settings_of(config_);
    actors::Links::Events events;
    events.up = [this](const actors::PeerIdentity& peer) {
      if (peer.role != schema::Role::STAGE) return caf::anon_send(node_, actors::PeerUp{peer});
      if (head_)
        caf::anon_send(head_->pipeline(),
                       actors::StageUp{peer, links_->remote<actors::StageActor>(peer, schema::Role::STAGE,
                                                                                peer.instance)});
    };
    events.down = [this](const actors::PeerIdentity& peer, const std::string& reason) {
      if (peer.role == schema::Role::STAGE) return;  // its handles went down: the pipeline knows
      caf::anon_send(node_, actors::PeerDown{peer, reason});
      if (!is_head_ && peer.node == config_.head().name) connect_to_head();
    };
    events.refused = [this](const std::string& address, const std::string& reason) {
      log::error("node.head_unreachable", {{"address", address}, {"reason", reason}});
      exit_code_ = unavailable;
      kill(getpid(), SIGTERM);
    };
    links_ = std::make_unique<actors::Links>(system_, link_options(config_), self, events);
  }

  void spawn_node_actor() {
    actors::Supervisor::Options stages;
    stages.program = [this](uint32_t instance, uint64_t incarnation) {
      return stage_program(instance, incarnation);
    };
    stages.ended = [this](const actors::Supervisor::Child& child) { stage_ended(child); };
    supervisor_ = std::make_unique<actors::Supervisor>(std::move(stages));
    actors::NodeEffects effects;
    effects.replace = [this](uint32_t instance, uint64_t incarnation) {
      supervisor_->replace(instance, incarnation);
    };
    effects.node_handle = [this](const actors::PeerIdentity& peer) {
      return links_->remote<actors::NodeActor>(peer, schema::Role::NODE, 0);
    };
    effects.client_handle = [this](const actors::PeerIdentity& peer) {
      return links_->remote<actors::ClientActor>(peer, schema::Role::CLIENT, 0);
    };
    effects.shut_down = [] { kill(getpid(), SIGTERM); };
    actors::NodeFacts facts;
    if (head_) {
      // Not asked of the gateway: while this process ends, that is gone before the node actor.
      facts.gateway_url = [this] {
        const std::lock_guard lock(file_mutex_);
        return file_.gateway_url;
      };
      facts.redis_json = [this] { return head_->redis_json(); };
      facts.draining = [this] { return draining_.load(); };
    }
    node_ = system_.spawn(actors::node, actors::NodeOptions{config_, name_, is_head_}, facts, effects);
    links_->publish(schema::Role::NODE, 0, caf::actor_cast<caf::actor>(node_));
  }

  void start_stages() {
    for (const auto& placement : actors::place_stages(config_.cluster.nodes))
      if (placement.node == name_)
        for (uint32_t i = 0; i < placement.count; ++i) supervisor_->keep(placement.first + i);
    check_memory();
  }

  actors::Program stage_program(uint32_t instance, uint64_t incarnation) const {
    std::vector<std::string> arguments{"stage",
                                       "--config",
                                       config_.file.string(),
                                       "--node",
                                       name_,
                                       "--instance",
                                       std::to_string(instance),
                                       "--incarnation",
                                       std::to_string(incarnation),
                                       "--head-host",
                                       config_.head().listen_host(),
                                       "--head-port",
                                       std::to_string(link_port_),
                                       "--parent",
                                       std::to_string(getpid())};
    if (!model_override_.empty()) arguments.insert(arguments.end(), {"--model", model_override_});
    if (!log_path_.empty()) arguments.insert(arguments.end(), {"--log", log_path_});
    actors::Program program = actors::own_program(arguments);
    // Ctrl-C at the terminal ends the node, whose answers under way need the stages until they end.
    program.group = actors::Program::Group::own;
    return program;
  }

  /// From the edge inwards: no new requests, then no stages, then no actors, then no links.
  void stop() {
    watch_.let_go();
    if (head_) head_->close();
    if (supervisor_) supervisor_->stop();
    actors::end_and_wait(system_, node_);
    if (head_) head_->end_actors();
    if (links_) links_->close();  // their events use the pointer
    links_.reset();
    head_.reset();
    remove_node_file(run_dir_, name_);
  }

  const ClusterConfig config_;
  const std::string name_, model_override_, log_path_;
  const actors::NodeConfig here_;
  const bool is_head_;
  const fs::path run_dir_;
  const uint64_t incarnation_;
  const ProcessLock lock_;
  log::LogFile log_;
  ActorWatch watch_;
  std::atomic<int> exit_code_ = ok;
  std::atomic<bool> draining_ = false;
  std::mutex file_mutex_;
  NodeFile file_;  // guarded by file_mutex_; what run_dir_ says of us
  ActorSystemConfig system_config_;
  caf::actor_system system_;
  std::unique_ptr<actors::Links> links_;
  std::optional<Head> head_;
  std::unique_ptr<actors::Supervisor> supervisor_;
  actors::NodeActor node_;
  uint16_t link_port_ = 0;  // the head's
};

int run_node(const std::string& file, const std::string& name, const std::string& model,
             const std::string& log_path) {
  block_signals();
  auto config = actors::load_cluster_config(file);
  if (!model.empty()) {
    config.cluster.model = model::resolve_model(model, fs::current_path());
    config.cluster.model_id = actors::default_model_id(config.cluster.model);
  }
  if (!config.find_node(name))
    throw InputError("there is no node \"" + name + "\"", config.file.string() + ": cluster.nodes",
                     "name one that is there");
  log::configure(config.log.level, config.log.json, name);
  umask(077);
  prepare_run_dir(config.cluster.run_dir);
  return NodeProcess(config, name, model.empty() ? "" : config.cluster.model, log_path).run();
}

}  // namespace

void add_node(CLI::App& app, int& exit_code) {
  struct Arguments {
    std::string config = "cluster.conf", name, model, log;
  };
  auto args = std::make_shared<Arguments>();
  auto* command = app.add_subcommand("node", "Runs one node of the configuration in the foreground");
  command->add_option("--config", args->config, "cluster configuration")->capture_default_str();
  command->add_option("--name", args->name, "which node")->required();
  command->add_option("--model", args->model, "a model in place of the configured one");
  command->add_option("--log", args->log, "the file that its output goes to, to be rotated and reopened")
      ->group("");
  command->callback(
      [args, &exit_code] { exit_code = run_node(args->config, args->name, args->model, args->log); });
}

}  // namespace convoy::cli
