#pragma once
// Node: the actor that answers for one machine. It passes on orders to replace stages, knows the other nodes,
// and says what the cluster is (convoy status). The effects behind it are the supervisor's and the links'.

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "actors/config/cluster_config.hpp"
#include "actors/messages.hpp"

namespace convoy::actors {

/// What the node actor knows of things that are not actors. Null on nodes that are not the head.
struct NodeFacts {
  std::function<std::string()> gateway_url;
  std::function<std::string()> redis_json;  // {"address", "pid", "state", "reason"}, no reason if off
  std::function<bool()> draining;           // no more requests are taken
};

struct NodeOptions {
  ClusterConfig config;
  std::string name;
  bool head = false;  // the head, in a process of its own beside the node's
  int32_t pid = 0;    // of the node's process
};

struct NodeEffects {
  /// That process of a stage of ours; not of the head, which has none.
  std::function<void(uint32_t instance, uint64_t incarnation)> replace;
  std::function<NodeActor(const PeerIdentity&)> node_handle;
  std::function<ClientActor(const PeerIdentity&)> client_handle;
  std::function<void()> shut_down;  // begin to end this process, which says Drained if it is the head
};

struct NodeState {
  std::map<std::string, PeerIdentity> nodes;  // linked now
  std::map<std::string, NodeActor> handles;
  std::map<uint32_t, ClientActor> clients;
  Frame<msg::PipelineState> pipeline;
  std::chrono::steady_clock::time_point heard{};  // of the pipeline
  NodeFacts facts;
  Frame<msg::Shutdown> shutdown;  // to be passed on
  static inline const char* name = "node";
};

/// The object that `convoy status --json` prints. Pure but for the facts' functions.
std::string status_json(const NodeOptions& options, const NodeState& state, bool pipeline_fresh);

NodeActor::behavior_type node(NodeActor::stateful_pointer<NodeState> self, NodeOptions options,
                              NodeFacts facts, NodeEffects effects);

}  // namespace convoy::actors
