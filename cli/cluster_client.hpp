#pragma once
// ClusterClient: asks a running cluster over a link of its own, as a process with the role `client`. Used by
// one thread; every wait is bounded.

#include <boost/json.hpp>
#include <memory>
#include <optional>

#include "actors/config/cluster_config.hpp"
#include "cli/run_dir.hpp"
#include "schema/convoy.capnp.h"

namespace convoy::cli {

class ClusterClient {
 public:
  /// Connects to the head, on this machine. connected() tells whether it answered within timeout_ms. head:
  /// the process that holds the head's lock; another one that listens in its place is told nothing.
  ClusterClient(const actors::ClusterConfig& config, const Holder& head, uint32_t timeout_ms);
  /// Connects to the head on another machine, with the certificate of that node of ours.
  ClusterClient(const actors::ClusterConfig& config, const std::string& node, uint32_t timeout_ms);
  ~ClusterClient();
  bool connected() const;

  /// What the head says of the cluster; nothing if it does not answer within timeout_ms.
  std::optional<boost::json::object> status(uint32_t timeout_ms);
  /// Changes who belongs to the cluster; to add a node all of it counts, else its name. Why not, or an empty
  /// text; nothing if the head does not answer.
  std::optional<std::string> change_members(schema::MemberCommand::Kind kind, const actors::NodeConfig& node,
                                            uint32_t timeout_ms);
  /// Asks the head to end the cluster. Does not wait.
  void shut_down();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// The processes that hold their node's lock now, by the index of the node.
std::vector<std::optional<Holder>> node_holders(const actors::ClusterConfig& config);
/// The key of a node's address: "cluster.nodes[0].listen".
std::string listen_key(const actors::ClusterConfig& config, const std::string& node);

/// The cluster's status from the head, or, if it does not answer, what the run directory shows: truthful
/// either way. Throws InputError if the run directory cannot be read.
boost::json::object cluster_status(const actors::ClusterConfig& config, uint32_t timeout_ms);

}  // namespace convoy::cli
