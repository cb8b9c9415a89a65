// convoy up: starts the nodes of cluster.conf on this machine and returns when a token went through all
// stages.

#include <sys/stat.h>
#include <unistd.h>

#include <sys/wait.h>
#include <chrono>
#include <csignal>
#include <fstream>
#include <thread>

#include "actors/plan_limits.hpp"
#include "actors/private_files.hpp"
#include "actors/supervisor.hpp"
#include "cli/cluster_client.hpp"
#include "cli/commands.hpp"
#include "cli/model_option.hpp"
#include "cli/runtime.hpp"
#include "model/checkpoint.hpp"
#include "model/error.hpp"
#include "model/mapping.hpp"
#include "model/random_model.hpp"

namespace convoy::cli {

bool end_cluster(const actors::ClusterConfig& config, uint32_t grace_ms);  // down.cpp

namespace fs = std::filesystem;
namespace json = boost::json;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

namespace {

/// The last lines of a node's log: where the reason of a failed start stands.
std::string last_lines(const fs::path& log, size_t count) {
  std::ifstream in(log);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) {
    lines.push_back(line);
    if (lines.size() > count) lines.erase(lines.begin());
  }
  std::string text;
  for (const auto& line : lines) text += "  " + line + "\n";
  return text;
}

struct Started {
  std::string node;
  pid_t pid;
  fs::path log;
};

/// One line that changes: which stage is how far.
void show_progress(const json::object& status, bool terminal, std::string& shown) {
  std::string line;
  for (const auto& s : status.at("stages").as_array()) {
    line += (line.empty() ? "stages: " : ", ") + std::string(s.at("health").as_string());
    if (s.at("health") == "loading" && !s.at("reason").as_string().empty())
      line += " (" + std::string(s.at("reason").as_string()) + ")";
  }
  if (line.empty() || line == shown) return;
  shown = line;
  if (terminal)
    std::fprintf(stderr, "\r\033[K%s", line.c_str());
  else
    std::fprintf(stderr, "%s\n", line.c_str());
}

/// A node that ended, or a stage that keeps ending, will not get ready: says so instead of waiting.
std::string hopeless(const std::vector<Started>& nodes) {
  for (const Started& n : nodes) {
    int status = 0;
    if (waitpid(n.pid, &status, WNOHANG) != n.pid) continue;
    return "node " + n.node + " ended:\n" + last_lines(n.log, 5);
  }
  return {};
}

int bring_up(actors::ClusterConfig config, const std::string& model_override) {
  // What would make every process fail is found here, once, with a clear message.
  {
    auto checked = config;
    if (!model_override.empty()) checked.cluster.model = model_override;
    const auto checkpoint = model::Checkpoint::open(checked.cluster.model);
    actors::check_stages(checked, checkpoint->config());
    if (const auto warning = actors::memory_warning(checked, *checkpoint, model::memory_available_bytes()))
      std::fprintf(stderr, "convoy: warning: %s\n", warning->c_str());
  }
  umask(077);
  actors::make_private_folder(config.cluster.run_dir);
  if (NodeLock::held(config.cluster.run_dir, config.head().name))
    throw InputError("the cluster already runs", config.file.string(),
                     "see `convoy status`, or end it with `convoy down`");

  std::vector<Started> nodes;
  for (const auto& n : config.cluster.nodes) {
    const fs::path log = fs::path(config.cluster.run_dir) / (n.name + ".log");
    fs::remove(log);
    std::vector<std::string> command{own_program(),        "node",   "--config",
                                     config.file.string(), "--name", n.name};
    if (!model_override.empty()) command.insert(command.end(), {"--model", model_override});
    nodes.push_back({n.name, actors::spawn_process(command, log.string(), true), log});
  }

  const bool terminal = isatty(STDERR_FILENO) != 0;
  std::string shown, why = "it did not get ready within pipeline.load_timeout_ms";
  const auto end = Clock::now() + milliseconds(config.pipeline.load_timeout_ms);
  std::optional<ClusterClient> client;
  while (Clock::now() < end) {
    if (const std::string problem = hopeless(nodes); !problem.empty()) {
      why = problem;
      break;
    }
    // The head writes its file when it listens.
    if (!client && read_node_file(config.cluster.run_dir, config.head().name)) client.emplace(config, 1000);
    if (client && !client->connected()) client.reset();
    if (client) {
      if (const auto status = client->status(1000)) {
        show_progress(*status, terminal, shown);
        if (status->at("ready").as_bool()) {
          if (terminal) std::fprintf(stderr, "\r\033[K");
          std::printf("ready: %s at %s\n", status->at("model").as_string().c_str(),
                      status->at("gateway").at("url").as_string().c_str());
          return ok;
        }
        why = std::string(status->at("reason").as_string());
      }
    }
    std::this_thread::sleep_for(milliseconds(50));
  }
  std::fprintf(stderr, "%sconvoy: the cluster of %s did not get ready: %s\n", terminal ? "\n" : "",
               config.file.c_str(), why.c_str());
  client.reset();
  end_cluster(config, 3000);
  return unavailable;
}

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
    exit_code = bring_up(actors::load_cluster_config(args->config),
                         model.empty() ? "" : model::resolve_model(model, fs::current_path()));
  });
}

}  // namespace convoy::cli
