// convoy node: runs one node of the configuration: keeps its stages alive and, on the head's node, the head,
// each in a process of its own. Who loses the head waits for the next one.

#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <mutex>
#include <optional>

#include "actors/config/plan_limits.hpp"
#include "actors/node.hpp"
#include "actors/process/log.hpp"
#include "actors/supervisor.hpp"
#include "cli/actor_watch.hpp"
#include "cli/cluster_client.hpp"
#include "cli/commands.hpp"
#include "cli/port_holder.hpp"
#include "cli/run_dir.hpp"
#include "cli/runtime.hpp"
#include "cli/service_manager.hpp"
#include "model/checkpoint/checkpoint.hpp"
#include "model/checkpoint/random_model.hpp"
#include "model/error.hpp"
#include "model/memory_limit.hpp"

namespace convoy::cli {

namespace fs = std::filesystem;
using actors::ClusterConfig;

namespace {

constexpr auto look_again = std::chrono::milliseconds(20);
constexpr uint32_t head_ends_within_ms = 5000;  // behind its answers, before it is killed
constexpr uint32_t head_silent_ms_max = 5000;   // one that served, and cannot be linked to, is replaced
constexpr uint32_t head_stable_ms = 1000;       // one that lived longer is started again at once
constexpr auto old_head_gone_within = std::chrono::seconds(2);
constexpr auto node_answers_within = std::chrono::seconds(1);  // or it is not alive

class NodeProcess {
 public:
  NodeProcess(ClusterConfig config, const std::string& name, std::string model_override, std::string log)
      : config_(std::move(config)),
        name_(name),
        model_override_(std::move(model_override)),
        log_path_(std::move(log)),
        here_(*config_.find_node(name)),
        has_head_(config_.head().name == name),
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
    if (!over_) {
      manager_.ready(has_head_ ? "the head serves" : "linked to the head, or waiting for it");
      tend_until_told(log_, [this] { return tend(); });
    }
    log::info("node.stopping", {{"node", name_}});
    manager_.stopping();
    stop();
    return watch_.exit_code(exit_code_);
  }

 private:
  void start() {
    raise_descriptor_limit();
    remove_node_file(run_dir_, name_);  // of an earlier process, which was killed
    connect_links();
    spawn_node_actor();
    watch_.hold(node_, "node");
    link_port_ = config_.head().listen_port();
    if (has_head_)
      start_head();
    else
      listen_or_explain(*links_, config_, here_, here_.listen_port());
    if (over_) return;
    {
      const std::lock_guard lock(file_mutex_);
      file_.incarnation = incarnation_;
      write_node_file(run_dir_, name_, file_);
    }
    keep_stages(here_.stages);  // until the head says otherwise
    if (config_.has_own_gateway(here_)) start_gateway();
    connect_to_head();
    check_memory();
    log::info("node.started", {{"node", name_}, {"link_port", link_port_.load()}});
  }

  log::LogRotation rotation() const { return {config_.log.file_bytes_max, config_.log.files_max}; }

  void check_memory() const {
    if (here_.stages == 0) return;
    const ClusterConfig config = config_.of_pipeline(*config_.find_pipeline(here_.pipeline));
    const std::string& path = config.cluster.model;
    if (!has_head_ && !model::Checkpoint::is_there(path))
      return log::info("node.model_not_here", {{"model", path}, {"weights", "come from the head"}});
    std::shared_ptr<const model::Checkpoint> checkpoint;
    try {
      checkpoint = model::Checkpoint::open(path);
      actors::check_stages(config, checkpoint->config());
    } catch (const InputError& e) {  // the stages end with it, too
      log::warn("node.memory_unknown", {{"reason", e.what()}});
      schema::FrameBuilder<schema::NodeProblem> problem;
      problem->setText(e.what());
      return actors::mail(node_, std::move(problem).finish());
    }
    if (const auto warning = actors::memory_warning(config, *checkpoint, {name_}, model::memory_limit()))
      log::warn("node.little_memory", {{"reason", *warning}});
  }

  /// Returns when it serves, or is not to be started again.
  void start_head() {
    actors::Supervisor::Options options;
    options.kind = "head";
    options.stable_ms = head_stable_ms;
    options.program = [this](uint32_t, uint64_t incarnation) { return head_program(incarnation); };
    options.again = [this](const actors::Supervisor::Child& child) {
      return head_served_ && child.exit_code != ok;
    };
    options.ended = [this](const actors::Supervisor::Child& child) { head_ended(child); };
    heads_ = std::make_unique<actors::Supervisor>(std::move(options));
    // That of a node that was killed ends with it, but later.
    const auto old_gone = std::chrono::steady_clock::now() + old_head_gone_within;
    while (!over_ && std::chrono::steady_clock::now() < old_gone &&
           ProcessLock::holder(head_lock_file(run_dir_)))
      wait();
    heads_->keep(0);
    for (; !over_ && !head_served_; wait())
      if (const auto file = head_file()) {
        link_port_ = file->link_port;
        head_served_ = true;
      }
  }

  /// It waits for the head by itself.
  void start_gateway() {
    actors::Supervisor::Options options;
    options.kind = "gateway";
    options.stable_ms = head_stable_ms;
    options.program = [this](uint32_t, uint64_t incarnation) {
      return program({"gateway", "--node", name_, "--head-host", config_.head().listen_host(), "--head-port",
                      std::to_string(link_port_), "--incarnation", std::to_string(incarnation)});
    };
    options.again = [](const actors::Supervisor::Child& child) { return child.exit_code != ok; };
    options.ended = [this](const actors::Supervisor::Child& child) {
      if (child.crashes == 0) return;
      const std::lock_guard lock(file_mutex_);
      file_.gateway_crashes = child.crashes;
      file_.gateway_last_end = child.last_end;
      try_write_file();
    };
    gateways_ = std::make_unique<actors::Supervisor>(std::move(options));
    gateways_->keep(0);
  }

  /// Under file_mutex_.
  void try_write_file() const {
    try {
      write_node_file(run_dir_, name_, file_);
    } catch (const InputError& e) {
      log::warn_limited("node.file_not_written", {{"reason", e.what()}});
    }
  }

  /// A moment, or until this process is told to end.
  void wait() {
    const int signal = await_signal(look_again);
    if (signal == SIGHUP) log_.reopen();
    if (signal == SIGTERM || signal == SIGINT) over_ = true;
  }

  /// Of the head that runs and serves.
  std::optional<NodeFile> head_file() const {
    const auto holder = ProcessLock::holder(head_lock_file(run_dir_));
    return holder ? read_node_file(run_dir_, head_entry, *holder) : std::nullopt;
  }

  /// On the supervisor's thread. One that ended well was told to end; one that never served says why itself.
  void head_ended(const actors::Supervisor::Child& child) {
    if (!child.over || over_.exchange(true)) return;
    exit_code_ = child.exit_code.value_or(internal);
    kill(getpid(), SIGTERM);
  }

  void connect_to_head() {
    links_->connect(config_.head().listen_host(), link_port_,
                    has_head_ ? head_silent_ms_max : config_.link.head_timeout_ms);
  }

  /// Every second, on the main thread. A cluster whose run directory was deleted cannot be found by any
  /// command any more, so it ends.
  bool tend() {
    if (has_head_) log::rotate(run_dir_ / "redis.log", rotation());
    if (head_unreachable_.exchange(false)) {
      replace_head();
      connect_to_head();
    }
    if (over_) return false;
    if (manager_.watchdog_period().count() > 0 && node_answers()) manager_.alive();
    if (lock_.still_there()) return true;
    log::error("node.run_dir_deleted", {{"run_dir", run_dir_.string()}});
    exit_code_ = unavailable;
    return false;
  }

  bool node_answers() {
    bool answered = false;
    caf::scoped_actor self(system_);
    self->request(node_, node_answers_within, caf::tick_atom_v)
        .receive([&answered] { answered = true; },
                 [](const caf::error& e) {
                   log::warn_limited("node.does_not_answer", {{"reason", caf::to_string(e)}});
                 });
    return answered;
  }

  /// Unless this process cannot even look after it: then it may be us who cannot connect.
  void replace_head() {
    try {
      if (const auto served = head_file()) heads_->replace(0, served->incarnation);
    } catch (const InputError& e) {
      log::warn_limited("node.head_unknown", {{"reason", e.what()}});
    }
  }

  /// `convoy up` reads there that a stage cannot start. On the supervisor's thread.
  void stage_ended(const actors::Supervisor::Child& child) {
    if (child.crashes == 0) return;
    const std::lock_guard lock(file_mutex_);
    std::erase_if(file_.crashing, [&](const auto& c) { return c.instance == child.instance; });
    file_.crashing.push_back({child.instance, child.crashes, child.last_end});
    try_write_file();
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
    events.up = [this](const actors::PeerIdentity& peer) { caf::anon_send(node_, actors::PeerUp{peer}); };
    events.down = [this](const actors::PeerIdentity& peer, const std::string& reason) {
      caf::anon_send(node_, actors::PeerDown{peer, reason});
      if (peer.node == config_.head().name) connect_to_head();
    };
    events.refused = [this](const std::string& address, const std::string& reason) {
      log::error("node.head_unreachable", {{"address", address}, {"reason", reason}});
      if (has_head_) {
        head_unreachable_ = true;
        return;
      }
      exit_code_ = unavailable;
      kill(getpid(), SIGTERM);
    };
    links_ = std::make_unique<actors::Links>(system_, link_options(config_, name_), self, events);
  }

  void spawn_node_actor() {
    actors::Supervisor::Options stages;
    stages.program = [this](uint32_t instance, uint64_t incarnation) {
      return stage_program(instance, incarnation);
    };
    stages.ended = [this](const actors::Supervisor::Child& child) { stage_ended(child); };
    stages.spares = config_.stage.spares;
    stages.spare = [this] { return stage_program({"--spare"}); };
    stages_ = std::make_unique<actors::Supervisor>(std::move(stages));
    actors::NodeEffects effects;
    effects.replace = [this](uint32_t instance, uint64_t incarnation) {
      stages_->replace(instance, incarnation);
    };
    effects.keep_stages = [this](uint32_t count) { keep_stages(count); };
    effects.node_handle = [this](const actors::PeerIdentity& peer) {
      return links_->remote<actors::NodeActor>(peer, schema::Role::NODE, 0);
    };
    effects.client_handle = [this](const actors::PeerIdentity& peer) {
      return links_->remote<actors::ClientActor>(peer, schema::Role::CLIENT, 0);
    };
    effects.shut_down = [] { kill(getpid(), SIGTERM); };
    node_ = system_.spawn(actors::node, actors::NodeOptions{config_, name_}, actors::NodeFacts{}, effects);
    links_->publish(schema::Role::NODE, 0, caf::actor_cast<caf::actor>(node_));
  }

  void keep_stages(uint32_t count) {
    for (uint32_t i = 0; i < count; ++i) stages_->keep(i);
    for (const auto& child : stages_->children())
      if (child.instance >= count) stages_->release(child.instance);
  }

  actors::Program head_program(uint64_t incarnation) const {
    return program(
        {"head", "--incarnation", std::to_string(incarnation), "--link-port", std::to_string(link_port_)});
  }

  actors::Program stage_program(uint32_t instance, uint64_t incarnation) const {
    return stage_program(
        {"--instance", std::to_string(instance), "--incarnation", std::to_string(incarnation)});
  }

  /// which: it is, or that it is told later.
  actors::Program stage_program(const std::vector<std::string>& which) const {
    std::vector<std::string> arguments{"stage",
                                       "--node",
                                       name_,
                                       "--head-host",
                                       config_.head().listen_host(),
                                       "--head-port",
                                       std::to_string(link_port_)};
    arguments.insert(arguments.end(), which.begin(), which.end());
    return program(std::move(arguments));
  }

  actors::Program program(std::vector<std::string> arguments) const {
    arguments.insert(arguments.end(),
                     {"--config", config_.file.string(), "--parent", std::to_string(getpid())});
    if (!model_override_.empty()) arguments.insert(arguments.end(), {"--model", model_override_});
    if (!log_path_.empty()) arguments.insert(arguments.end(), {"--log", log_path_});
    actors::Program program = actors::own_program(arguments);
    // Ctrl-C at the terminal ends the node; answers under way need head and stages until they end.
    program.group = actors::Program::Group::own;
    return program;
  }

  /// The head or a gateway ends when its answers have, or are cut: that is up to it, and to whoever tells it
  /// once more.
  void stop_draining(actors::Supervisor& processes) {
    processes.begin_stop(config_.gateway.drain_timeout_ms + head_ends_within_ms);
    while (!processes.stopped()) {
      const int signal = await_signal(look_again);
      if (signal == SIGHUP) log_.reopen();
      if (signal == SIGTERM || signal == SIGINT) processes.signal(SIGTERM);
    }
  }

  /// First the head or the gateway, whose answers need the stages; then these; then actors and links.
  void stop() {
    over_ = true;
    watch_.let_go();
    if (heads_) stop_draining(*heads_);
    if (gateways_) stop_draining(*gateways_);
    if (stages_) stages_->stop();
    actors::end_and_wait(system_, node_);
    if (links_) links_->close();  // their events use the pointer
    links_.reset();
    if (has_head_) remove_node_file(run_dir_, head_entry);  // of one that was killed
    if (gateways_) remove_node_file(run_dir_, gateway_entry(name_));
    remove_node_file(run_dir_, name_);
  }

  const ClusterConfig config_;
  const std::string name_, model_override_, log_path_;
  const actors::NodeConfig here_;
  const bool has_head_;
  const fs::path run_dir_;
  const uint64_t incarnation_;
  const ProcessLock lock_;
  log::LogFile log_;
  const ServiceManager manager_;
  ActorWatch watch_;
  std::atomic<int> exit_code_ = ok;
  std::atomic<bool> over_ = false;  // to end, for a reason that exit_code_ says
  std::atomic<bool> head_served_ = false, head_unreachable_ = false;
  std::mutex file_mutex_;
  NodeFile file_;  // guarded by file_mutex_; what run_dir_ says of us
  ActorSystemConfig system_config_;
  caf::actor_system system_;
  std::unique_ptr<actors::Links> links_;
  std::unique_ptr<actors::Supervisor> heads_, gateways_, stages_;
  actors::NodeActor node_;
  std::atomic<uint16_t> link_port_ = 0;  // the head's
};

/// The one that runs on this machine.
std::string node_of_this_machine(const ClusterConfig& config) {
  const auto here = nodes_here(config);
  if (here.size() == 1) return here.front().name;
  std::string names;
  for (const auto& node : here) names += (names.empty() ? "" : ", ") + node.name;
  throw InputError(here.empty() ? "none of its nodes runs on this machine"
                                : "several of its nodes run on this machine: " + names,
                   config.file.string() + ": cluster.nodes", "say which with --name");
}

int run_node(const std::string& file, std::string name, const std::string& model,
             const std::string& log_path) {
  block_signals();
  auto config = actors::load_cluster_config(file);
  if (name.empty()) name = node_of_this_machine(config);
  if (!model.empty()) {
    actors::replace_model(config, model::resolve_model(model, fs::current_path()));
  }
  if (!config.find_node(name))
    throw InputError("there is no node \"" + name + "\"", config.file.string() + ": cluster.nodes",
                     "name one that is there");
  log::configure(config.log.level, config.log.json, name);
  umask(077);
  prepare_run_dir(config.cluster.run_dir);
  return NodeProcess(config, name, model.empty() ? "" : config.cluster.models.front().path, log_path).run();
}

}  // namespace

void add_node(CLI::App& app, int& exit_code) {
  struct Arguments {
    std::string config = "cluster.conf", name, model, log;
  };
  auto args = std::make_shared<Arguments>();
  auto* command = app.add_subcommand("node", "Runs one node of the configuration in the foreground");
  command->add_option("--config", args->config, "cluster configuration")->capture_default_str();
  command->add_option("--name", args->name, "which node (the one of this machine, if it is one)");
  command->add_option("--model", args->model, "a model in place of the configured one");
  command->add_option("--log", args->log, "the file that its output goes to, to be rotated and reopened")
      ->group("");
  command->callback(
      [args, &exit_code] { exit_code = run_node(args->config, args->name, args->model, args->log); });
}

}  // namespace convoy::cli
