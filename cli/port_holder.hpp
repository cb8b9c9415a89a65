#pragma once
// Whose port is it: what /proc tells of the process that listens on a port. Called by commands that find one
// taken, on their main thread.

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "actors/config/cluster_config.hpp"
#include "actors/link/link.hpp"

namespace convoy::cli {

struct PortHolder {
  pid_t pid = 0;        // 0: of a process that we may not look into
  std::string program;  // its name
  // If it is a node of Convoy:
  std::string node, cluster;
  std::filesystem::path config;
};

/// Nothing if nobody listens there.
std::optional<PortHolder> port_holder(const std::string& host, uint16_t port);

/// "port 7411 (cluster.nodes[0].listen) is held by cluster NAME in FOLDER, pid N; …" with how to mend it.
std::string port_held_text(const PortHolder& holder, uint16_t port, const std::string& key);

/// Those that run on this machine: whose address one of this machine is.
std::vector<actors::NodeConfig> nodes_here(const actors::ClusterConfig& config);
/// Whether the head is among them.
bool has_head(const std::vector<actors::NodeConfig>& nodes, const actors::ClusterConfig& config);

/// Listens for links, and returns the port. Throws Unavailable if another process holds it, InputError if the
/// address is wrong.
uint16_t listen_or_explain(actors::Links& links, const actors::ClusterConfig& config,
                           const actors::NodeConfig& node, uint16_t port);

}  // namespace convoy::cli
