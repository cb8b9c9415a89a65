#pragma once
// What every long-running command shares: CAF's settings, the run directory's files, waiting for a signal.

#include <caf/all.hpp>
#include <filesystem>
#include <optional>
#include <string>

#include "actors/cluster_config.hpp"
#include "actors/link.hpp"

namespace convoy::cli {

/// The settings that docs/decisions name: policy sharing, 50 messages a turn, at least four workers.
struct ActorSystemConfig : caf::actor_system_config {
  ActorSystemConfig();
};

/// With the cluster's secret, which is made if the run directory has none. Throws InputError.
actors::LinkOptions link_options(const actors::ClusterConfig& config);

/// Blocks SIGTERM and SIGINT for this thread and all that it starts, ignores SIGPIPE; call first in main's
/// thread.
void block_signals();
/// Waits for one of them.
int await_signal();

/// What a running node leaves in run_dir/NAME.json for the commands that come after it.
struct NodeFile {
  int32_t pid = 0;
  uint16_t link_port = 0;
  std::string gateway_url;
};
void write_node_file(const std::filesystem::path& run_dir, const std::string& node, const NodeFile& file);
std::optional<NodeFile> read_node_file(const std::filesystem::path& run_dir, const std::string& node);

/// Held as long as the node lives: two of one name cannot run in one run directory.
class NodeLock {
 public:
  /// Throws InputError if another process holds it.
  NodeLock(const std::filesystem::path& run_dir, const std::string& node);
  ~NodeLock();
  NodeLock(const NodeLock&) = delete;
  NodeLock& operator=(const NodeLock&) = delete;
  /// Whether some process holds it now.
  static bool held(const std::filesystem::path& run_dir, const std::string& node);

 private:
  int fd_;
};

/// Path of the running program, to start it again as a stage or a node.
std::string own_program();

}  // namespace convoy::cli
