// convoy up: starts the nodes of cluster.conf on this machine and returns when a token went through all
// stages. If that does not come to pass, it ends what it started and says why.

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <fstream>
#include <map>
#include <set>
#include <thread>

#include "actors/config/plan_limits.hpp"
#include "actors/process/child_process.hpp"
#include "actors/stage_loss.hpp"
#include "actors/supervisor.hpp"
#include "cli/cluster_client.hpp"
#include "cli/commands.hpp"
#include "cli/model_option.hpp"
#include "cli/port_holder.hpp"
#include "cli/runtime.hpp"
#include "cli/unavailable.hpp"
#include "model/checkpoint/checkpoint.hpp"
#include "model/checkpoint/random_model.hpp"
#include "model/error.hpp"
#include "model/memory_limit.hpp"

namespace convoy::cli {

namespace fs = std::filesystem;
namespace json = boost::json;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

namespace {

constexpr auto ask_again = milliseconds(50);
constexpr uint32_t answer_ms = 1000;  // of the head
constexpr auto grace = milliseconds(3000);
constexpr uint32_t crashes_max = 3;  // of one stage, before it gave a token
constexpr size_t lines_shown = 5;

struct StartedNode {
  std::string name;
  fs::path log;
  uintmax_t log_begins;  // what stands before it is of earlier starts
  pid_t pid;             // a child of ours: nobody else's until we reap it
  bool ended = false;
};

/// The last lines of this start in a node's log: where the reason of a failure stands.
std::string last_lines(const StartedNode& node) {
  std::ifstream in(node.log);
  std::error_code unreadable;
  if (fs::file_size(node.log, unreadable) >= node.log_begins)  // else it was rotated meanwhile
    in.seekg(static_cast<std::streamoff>(node.log_begins));
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) {
    lines.push_back(line);
    if (lines.size() > lines_shown) lines.erase(lines.begin());
  }
  std::string text;
  for (const auto& line : lines) text += "\n  " + line;
  return text.empty() ? "\n  (its log " + node.log.string() + " says nothing)" : text;
}

/// Why a start failed, and the command's exit code.
struct Failure {
  std::string why;
  int code = unavailable;
};

/// One start: the nodes that it began, and nothing else, are ended if it fails.
class Start {
 public:
  Start(actors::ClusterConfig config, std::string model_override)
      : config_(std::move(config)),
        model_override_(std::move(model_override)),
        run_dir_(config_.cluster.run_dir),
        here_(nodes_here(config_)),
        terminal_(isatty(STDERR_FILENO) != 0) {}

  int run() {
    struct sigaction hangup {};
    sigaction(SIGHUP, nullptr, &hangup);
    immune_to_hangup_ = hangup.sa_handler == SIG_IGN;  // nohup
    block_signals();
    require_nodes();
    check_models();
    umask(077);
    prepare_run_dir(run_dir_);
    const ProcessLock lock(start_lock_file(run_dir_), "another `convoy up` of this cluster",
                           actors::new_incarnation());
    require_not_running();
    require_free_ports();
    std::optional<Failure> failure;
    try {
      start_nodes();
      failure = await_ready();
    } catch (...) {
      end_nodes();
      throw;
    }
    if (!failure) return ok;
    end_nodes();
    std::fprintf(stderr, "%sconvoy: the cluster of %s did not get ready, and what was started is ended: %s\n",
                 terminal_ && !shown_.empty() ? "\n" : "", config_.file.c_str(), failure->why.c_str());
    return failure->code;
  }

 private:
  /// What would make every process fail is found here, once, with a clear message.
  void check_models() const {
    actors::StageMemory needed;  // by all of this machine
    std::string who;
    for (const auto& pipeline : config_.cluster.pipelines)
      check_model(config_.of_pipeline(pipeline), needed, who);
    if (const auto warning = actors::memory_warning("node " + who, needed, model::memory_limit()))
      std::fprintf(stderr, "convoy: warning: %s\n", warning->c_str());
  }

  /// checked: as one pipeline sees it. Adds what its stages here need, and whose they are.
  void check_model(const actors::ClusterConfig& checked, actors::StageMemory& needed,
                   std::string& who) const {
    std::vector<std::string> nodes;
    for (const auto& node : here_)
      if (config_.pipeline_of(node) == checked.cluster.pipelines.front().name) nodes.push_back(node.name);
    if (!head_is_here() && (nodes.empty() || !model::Checkpoint::is_there(checked.cluster.model)))
      return;  // none of ours, or it is fetched
    const auto checkpoint = model::Checkpoint::open(checked.cluster.model);
    actors::check_stages(checked, checkpoint->config());
    actors::check_rotary_table(checked, *checkpoint);
    if (nodes.empty()) return;
    const auto more = actors::memory_of_nodes(checked, *checkpoint, nodes);
    needed.weights += more.weights, needed.kv += more.kv;
    needed.buffers += more.buffers, needed.scratch += more.scratch;
    if (!who.empty()) who += "; ";
    for (const auto& node : nodes) who += (&node == &nodes.front() ? "" : ", ") + node;
    who += " with its stages of " + checked.cluster.model;
  }

  bool head_is_here() const { return has_head(here_, config_); }

  void require_nodes() const {
    if (!here_.empty()) return;
    std::string addresses;
    for (const auto& node : config_.cluster.nodes)
      addresses += (addresses.empty() ? "" : ", ") + node.name + " at " + node.listen;
    throw InputError("no node is of this machine: none of its addresses is one of " + addresses,
                     config_.file.string() + ": cluster.nodes", "name an address of this machine there");
  }

  void require_not_running() const {
    const auto holders = node_holders(config_);
    for (size_t i = 0; i < holders.size(); ++i)
      if (holders[i])
        throw InputError("the cluster already runs (node " + config_.cluster.nodes[i].name + ", pid " +
                             std::to_string(holders[i]->pid) + ")",
                         config_.file.string(), "see `convoy status`, or end it with `convoy down`");
  }

  void require_free_ports() const {
    const auto require = [](const std::string& host, uint16_t port, const std::string& key) {
      if (const auto holder = port_holder(host, port)) throw Unavailable(port_held_text(*holder, port, key));
    };
    for (const auto& n : here_) require(n.listen_host(), n.listen_port(), listen_key(config_, n.name));
    if (head_is_here()) require(config_.gateway.host, config_.gateway.port, "gateway.port");
    for (const auto& n : here_)
      if (config_.has_own_gateway(n))
        require(config_.gateway_of(n).host, config_.gateway_of(n).port,
                n.http.empty() ? "gateway.port" : "http of node " + n.name);
  }

  void start_nodes() {
    for (const auto& n : here_) {
      const fs::path log = run_dir_ / (n.name + ".log");
      std::vector<std::string> arguments{"node", "--config", config_.file.string(), "--name",
                                         n.name, "--log",    log.string()};
      if (!model_override_.empty()) arguments.insert(arguments.end(), {"--model", model_override_});
      auto program = actors::own_program(arguments);
      program.group = actors::Program::Group::own_session;
      program.output = log::open_log_file(log);
      StartedNode node{n.name, log, fs::file_size(log), 0};
      node.pid = actors::spawn_process(program);
      close(program.output);
      nodes_.push_back(node);
    }
  }

  /// Nothing once it is ready.
  std::optional<Failure> await_ready() {
    auto end = Clock::now() + milliseconds(config_.pipeline.load_timeout_ms);
    std::string why = "the head node does not answer";
    for (;;) {
      if (auto failure = interrupted()) return failure;
      if (auto failure = hopeless()) return failure;
      if (!head_is_here()) {
        if (!all_run() || !all_gateways_serve()) continue;
        std::printf("started; whether the cluster serves, `convoy status` tells where node %s runs (%s)\n",
                    config_.head().name.c_str(), config_.head().listen.c_str());
        print_gateways();
        return std::nullopt;
      }
      if (const auto status = ask_head()) {
        if (show_progress(*status)) end = Clock::now() + milliseconds(config_.pipeline.load_timeout_ms);
        if (auto failure = failing(*status)) return failure;
        if (status->at("ready").as_bool() && all_gateways_serve()) {
          if (terminal_) std::fprintf(stderr, "\r\033[K");
          std::printf("ready: %s at %s\n", served(*status).c_str(),
                      status->at("gateway").at("url").as_string().c_str());
          print_gateways();
          return std::nullopt;
        }
        why = status->at("ready").as_bool() ? "a gateway of this machine does not serve yet"
                                            : std::string(status->at("reason").as_string());
      }
      if (Clock::now() >= end)
        return Failure{why + " (nothing changed within pipeline.load_timeout_ms = " +
                       std::to_string(config_.pipeline.load_timeout_ms) + ")"};
    }
  }

  /// The models that it serves.
  static std::string served(const json::object& status) {
    std::string text;
    std::set<std::string> known;
    for (const json::value& pipeline : status.at("pipelines").as_array())
      if (const auto model = json::value_to<std::string>(pipeline.at("model")); known.insert(model).second)
        text += (text.empty() ? "" : ", ") + model;
    return text;
  }

  /// Of a gateway in a process of its own; empty: it does not serve yet.
  std::string url_of(const actors::NodeConfig& node) const {
    const auto holder = ProcessLock::holder(gateway_lock_file(run_dir_, node.name));
    const auto file = holder ? read_node_file(run_dir_, gateway_entry(node.name), *holder) : std::nullopt;
    return file ? file->gateway_url : "";
  }

  bool all_gateways_serve() const {
    return std::ranges::all_of(
        here_, [&](const auto& node) { return !config_.has_own_gateway(node) || !url_of(node).empty(); });
  }

  void print_gateways() const {
    for (const auto& node : here_)
      if (config_.has_own_gateway(node))
        std::printf("gateway of node %s at %s\n", node.name.c_str(), url_of(node).c_str());
  }

  bool all_run() const {
    return std::ranges::all_of(here_, [&](const auto& node) {
      const auto holder = ProcessLock::holder(node_lock_file(run_dir_, node.name));
      return holder && read_node_file(run_dir_, node.name, *holder);
    });
  }

  std::optional<Failure> interrupted() const {
    const int signal = await_signal(ask_again);
    if (signal == 0 || (signal == SIGHUP && immune_to_hangup_)) return std::nullopt;
    return Failure{std::string("interrupted by SIG") + sigabbrev_np(signal), failed};
  }

  /// A node that ended, or a stage that keeps ending, will not get ready: says so instead of waiting.
  std::optional<Failure> hopeless() {
    for (StartedNode& n : nodes_) {
      int status = 0;
      if (!n.ended && waitpid(n.pid, &status, WNOHANG) == n.pid) {
        n.ended = true;
        const bool input = WIFEXITED(status) && WEXITSTATUS(status) == bad_input;
        return Failure{"node " + n.name + " ended (" + actors::how_it_ended(status) + "):" + last_lines(n),
                       input ? bad_input : unavailable};
      }
      const auto holder = ProcessLock::holder(node_lock_file(run_dir_, n.name));
      const auto file = holder ? read_node_file(run_dir_, n.name, *holder) : std::nullopt;
      if (!file) continue;
      if (file->gateway_crashes >= crashes_max)
        return Failure{"the gateway of node " + n.name + " ended " + std::to_string(file->gateway_crashes) +
                       " times (" + file->gateway_last_end + "):" + last_lines(n)};
      for (const auto& stage : file->crashing)
        if (stage.crashes >= crashes_max)
          return Failure{"stage " + std::to_string(stage.instance) + " of node " + n.name + " ended " +
                         std::to_string(stage.crashes) + " times (" + stage.last_end + "):" + last_lines(n)};
    }
    return std::nullopt;
  }

  /// A stage that says it cannot serve, process after process: loading again changes nothing.
  std::optional<Failure> failing(const json::object& status) {
    const auto& stages = status.at("stages").as_array();
    for (size_t i = 0; i < stages.size(); ++i) {
      const std::string reason(stages[i].at("reason").as_string());
      if (!reason.starts_with(name_of(actors::StageLoss::failed))) continue;
      auto& processes = failed_[i];
      processes.insert(stages[i].at("pid").to_number<int64_t>());
      if (processes.size() >= crashes_max)
        return Failure{"stage " + json::serialize(stages[i].at("instance")) + " of node " +
                       std::string(stages[i].at("node").as_string()) + " failed " +
                       std::to_string(processes.size()) + " times, " + reason};
    }
    return std::nullopt;
  }

  /// The link may be lost while weights load and the machine is busy: then it is made anew.
  std::optional<json::object> ask_head() {
    const auto head = ProcessLock::holder(head_lock_file(run_dir_));
    if (!head) return std::nullopt;
    if (!client_) {
      if (!read_node_file(run_dir_, head_entry, *head)) return std::nullopt;
      client_.emplace(config_, *head, answer_ms);
    }
    auto status = client_->status(answer_ms);
    if (!status) client_.reset();
    return status;
  }

  /// One line that changes: which stage is how far. Returns whether it did.
  bool show_progress(const json::object& status) {
    std::string line;
    for (const auto& s : status.at("stages").as_array()) {
      line += (line.empty() ? "stages: " : ", ") + std::string(s.at("health").as_string());
      if (s.at("health") == "loading" && !s.at("reason").as_string().empty())
        line += " (" + std::string(s.at("reason").as_string()) + ")";
    }
    if (line.empty() || line == shown_) return false;
    shown_ = line;
    if (terminal_)
      std::fprintf(stderr, "\r\033[K%s", line.c_str());
    else
      std::fprintf(stderr, "%s\n", line.c_str());
    return true;
  }

  /// SIGTERM, then SIGKILL: the kernel ends a node's stages and its Redis with it.
  void end_nodes() {
    client_.reset();
    const auto signal_all = [this](int number) {
      for (const StartedNode& n : nodes_)
        if (!n.ended) kill(n.pid, number);
    };
    const auto all_ended = [this] {
      for (StartedNode& n : nodes_)
        if (!n.ended) n.ended = waitpid(n.pid, nullptr, WNOHANG) == n.pid;
      return std::all_of(nodes_.begin(), nodes_.end(), [](const StartedNode& n) { return n.ended; });
    };
    signal_all(SIGTERM);
    signal_all(SIGCONT);
    for (const auto end = Clock::now() + grace; !all_ended() && Clock::now() < end;)
      std::this_thread::sleep_for(milliseconds(10));
    signal_all(SIGKILL);
    while (!all_ended()) std::this_thread::sleep_for(milliseconds(10));
    for (const StartedNode& n : nodes_) {
      remove_node_file(run_dir_, n.name);
      remove_node_file(run_dir_, gateway_entry(n.name));
    }
    remove_node_file(run_dir_, head_entry);
  }

  const actors::ClusterConfig config_;
  const std::string model_override_;
  const fs::path run_dir_;
  const std::vector<actors::NodeConfig> here_;
  const bool terminal_;
  bool immune_to_hangup_ = false;
  std::vector<StartedNode> nodes_;
  std::optional<ClusterClient> client_;
  std::map<size_t, std::set<int64_t>> failed_;  // processes that said so, by stage
  std::string shown_;
};

}  // namespace

void add_up(CLI::App& app, int& exit_code) {
  struct Arguments {
    std::string config = "cluster.conf";
    ModelOption model;
  };
  auto args = std::make_shared<Arguments>();
  auto* command = app.add_subcommand("up", "Starts the cluster on this machine; returns when it is ready");
  command->add_option("--config", args->config, "cluster configuration")->capture_default_str();
  args->model.add_to(*command, false, "--model",
                     "a model in place of the configured one; random:NAME[:LAYERS] has random weights");
  command->callback([args, &exit_code] {
    const std::string& model = args->model.model;
    const std::string path = model.empty() ? "" : model::resolve_model(model, fs::current_path());
    auto config = actors::load_cluster_config(args->config);
    if (!path.empty()) actors::replace_model(config, path);
    exit_code = Start(std::move(config), path).run();
  });
}

}  // namespace convoy::cli
