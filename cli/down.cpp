// convoy down: ends the cluster that cluster.conf describes, and waits until nothing of it is left.

#include <unistd.h>

#include <chrono>
#include <csignal>
#include <thread>

#include "cli/cluster_client.hpp"
#include "cli/commands.hpp"
#include "cli/runtime.hpp"

namespace convoy::cli {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

namespace {

bool any_alive(const actors::ClusterConfig& config) {
  for (const auto& n : config.cluster.nodes)
    if (NodeLock::held(config.cluster.run_dir, n.name)) return true;
  return false;
}

bool wait_gone(const actors::ClusterConfig& config, milliseconds limit) {
  const auto end = Clock::now() + limit;
  while (any_alive(config)) {
    if (Clock::now() >= end) return false;
    std::this_thread::sleep_for(milliseconds(20));
  }
  return true;
}

/// Signals the processes that hold their node's lock: the pid in the file is theirs as long as they do.
void signal_nodes(const actors::ClusterConfig& config, int signal) {
  for (const auto& n : config.cluster.nodes) {
    if (!NodeLock::held(config.cluster.run_dir, n.name)) continue;
    if (const auto file = read_node_file(config.cluster.run_dir, n.name)) kill(file->pid, signal);
  }
}

}  // namespace

/// True if a cluster ran.
bool end_cluster(const actors::ClusterConfig& config, uint32_t grace_ms) {
  if (!any_alive(config)) return false;
  {
    ClusterClient client(config, std::min<uint32_t>(grace_ms, 2000));
    client.shut_down();
    if (client.connected() && wait_gone(config, milliseconds(grace_ms))) return true;
  }
  signal_nodes(config, SIGTERM);
  signal_nodes(config, SIGCONT);
  if (!wait_gone(config, milliseconds(grace_ms))) {
    signal_nodes(config, SIGKILL);  // its stages and its Redis are ended by the kernel with it
    wait_gone(config, milliseconds(2000));
  }
  for (const auto& n : config.cluster.nodes)
    fs::remove(fs::path(config.cluster.run_dir) / (n.name + ".json"));
  return true;
}

void add_down(CLI::App& app, int& exit_code) {
  struct Arguments {
    std::string config = "cluster.conf";
    uint32_t grace_ms = 5000;
  };
  auto args = std::make_shared<Arguments>();
  auto* command = app.add_subcommand("down", "Ends the cluster on this machine");
  command->add_option("--config", args->config, "cluster configuration")->capture_default_str();
  command->add_option("--grace-ms", args->grace_ms, "before processes are killed")->capture_default_str();
  command->callback([args, &exit_code] {
    const auto config = actors::load_cluster_config(args->config);
    const bool ran = end_cluster(config, args->grace_ms);
    if (any_alive(config)) {
      std::fprintf(stderr, "convoy: some nodes of %s still run; see %s\n", config.file.c_str(),
                   config.cluster.run_dir.c_str());
      exit_code = failed;
      return;
    }
    std::printf(ran ? "the cluster is down\n" : "the cluster was not running\n");
  });
}

}  // namespace convoy::cli
