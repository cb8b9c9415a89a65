// convoy down: ends the cluster that cluster.conf describes, and nothing else, and waits until nothing of it
// is left.

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <optional>
#include <thread>

#include "actors/process/child_process.hpp"
#include "cli/cluster_client.hpp"
#include "cli/commands.hpp"
#include "cli/port_holder.hpp"

namespace convoy::cli {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

namespace {

constexpr auto ask_again = milliseconds(20);
constexpr auto killed_within = milliseconds(2000);
constexpr auto ends_within = milliseconds(5000);  // a node that has no more answers under way

/// A process as it was when `down` began. Whoever takes its place meanwhile is left alone.
struct Running {
  fs::path lock;
  Holder holder;

  bool alive() const {
    const auto now = ProcessLock::holder(lock);
    return now && now->pid == holder.pid;
  }
  void signal(int number) const { ProcessLock::signal_holder(lock, holder, number); }
};

bool wait_gone(const std::vector<Running>& processes, milliseconds limit) {
  const auto end = Clock::now() + limit;
  while (std::any_of(processes.begin(), processes.end(), [](const Running& r) { return r.alive(); })) {
    if (Clock::now() >= end) return false;
    std::this_thread::sleep_for(ask_again);
  }
  return true;
}

/// SIGTERM, then SIGKILL: the kernel ends a node's stages and its Redis with it. Returns whether all are
/// gone.
bool end_processes(const std::vector<Running>& processes, milliseconds grace) {
  for (const int number : {SIGTERM, SIGCONT})
    for (const Running& r : processes) r.signal(number);
  if (wait_gone(processes, grace)) return true;
  for (const Running& r : processes) r.signal(SIGKILL);
  return wait_gone(processes, killed_within);
}

std::vector<Running> running_nodes(const actors::ClusterConfig& config) {
  std::vector<Running> nodes;
  const auto holders = node_holders(config);
  for (size_t i = 0; i < holders.size(); ++i)
    if (holders[i])
      nodes.push_back({node_lock_file(config.cluster.run_dir, config.cluster.nodes[i].name), *holders[i]});
  return nodes;
}

/// A `convoy up` that still starts the cluster ends what it started.
bool end_start(const actors::ClusterConfig& config, milliseconds grace) {
  const fs::path lock = start_lock_file(config.cluster.run_dir);
  const auto holder = ProcessLock::holder(lock);
  if (holder) end_processes({{lock, *holder}}, grace);
  return holder.has_value();
}

/// A node of this very configuration that nobody finds by its lock, because the run directory was deleted.
bool is_orphan(const actors::ClusterConfig& config, const actors::NodeConfig& node,
               const PortHolder& holder) {
  return !holder.cluster.empty() && holder.config == config.file && holder.node == node.name;
}

bool end_orphans(const actors::ClusterConfig& config, milliseconds grace) {
  bool any = false;
  for (const auto& node : config.cluster.nodes) {
    const auto ask = [&] { return port_holder(node.listen_host(), node.listen_port()); };
    const auto holder = ask();
    if (!holder || !is_orphan(config, node, *holder)) continue;
    any = true;
    // A pidfd stays with its process: if it still listens now, then it is the one that was found.
    pollfd process{actors::open_pidfd(holder->pid), POLLIN, 0};
    const auto now = ask();
    if (now && now->pid == holder->pid) {
      kill(holder->pid, SIGTERM);
      if (poll(&process, 1, static_cast<int>(grace.count())) == 0) kill(holder->pid, SIGKILL);
      poll(&process, 1, static_cast<int>(killed_within.count()));
    }
    if (process.fd >= 0) close(process.fd);
  }
  return any;
}

/// Asks the head, which tells the other nodes of this machine. Returns whether it heard.
bool ask_head(const actors::ClusterConfig& config, uint32_t timeout_ms) {
  const auto head = ProcessLock::holder(head_lock_file(config.cluster.run_dir));
  if (!head) return false;
  ClusterClient client(config, *head, timeout_ms);
  client.shut_down();
  return client.connected();
}

/// What ends here: the cluster, of which nothing serves without its head; or nodes that it goes on without.
std::string what_ends(const actors::ClusterConfig& config) {
  const auto here = nodes_here(config);
  if (here.empty() || has_head(here, config)) return "the cluster";
  std::string names;
  for (const auto& node : here) names += (names.empty() ? "" : ", ") + node.name;
  return "node " + names;
}

int end_cluster(const actors::ClusterConfig& config, milliseconds grace) {
  bool ran = end_start(config, grace);
  const auto nodes = running_nodes(config);
  ran = ran || !nodes.empty();
  bool gone = nodes.empty();
  if (!gone && ask_head(config, static_cast<uint32_t>(std::min(grace, killed_within).count())))
    gone = wait_gone(nodes, grace);
  if (!gone) gone = end_processes(nodes, grace);
  if (!gone) {
    std::string pids;
    for (const Running& r : nodes)
      if (r.alive()) pids += (pids.empty() ? "" : ", ") + std::to_string(r.holder.pid);
    std::fprintf(stderr, "convoy: nodes of %s still run (pid %s); see %s\n", config.file.c_str(),
                 pids.c_str(), config.cluster.run_dir.c_str());
    return failed;
  }
  for (const auto& n : config.cluster.nodes)
    if (!ProcessLock::holder(node_lock_file(config.cluster.run_dir, n.name))) {
      remove_node_file(config.cluster.run_dir, n.name);
      remove_node_file(config.cluster.run_dir, gateway_entry(n.name));
    }
  if (!ProcessLock::holder(head_lock_file(config.cluster.run_dir)))
    remove_node_file(config.cluster.run_dir, head_entry);
  if (!ran) ran = end_orphans(config, grace);
  if (ran) {
    std::printf("%s is down\n", what_ends(config).c_str());
    return ok;
  }
  const auto& head = config.head();
  const auto other = port_holder(head.listen_host(), head.listen_port());
  std::printf("%s was not running%s%s\n", what_ends(config).c_str(), other ? "; " : "",
              other ? port_held_text(*other, head.listen_port(), listen_key(config, head.name)).c_str() : "");
  return ok;
}

}  // namespace

void add_down(CLI::App& app, int& exit_code) {
  struct Arguments {
    std::string config = "cluster.conf";
    std::optional<uint32_t> grace_ms;
  };
  auto args = std::make_shared<Arguments>();
  auto* command = app.add_subcommand("down", "Ends the cluster on this machine");
  command->add_option("--config", args->config, "cluster configuration")->capture_default_str();
  command->add_option("--grace-ms", args->grace_ms,
                      "before nodes are told again, which cuts answers, and once more before they are killed "
                      "(gateway.drain_timeout_ms and 5000)");
  command->callback([args, &exit_code] {
    const auto config = actors::load_cluster_config(args->config);
    exit_code =
        end_cluster(config, args->grace_ms ? milliseconds(*args->grace_ms)
                                           : milliseconds(config.gateway.drain_timeout_ms) + ends_within);
  });
}

}  // namespace convoy::cli
