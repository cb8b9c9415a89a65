#pragma once
// Node: the actor that answers for one machine. It passes on orders to replace stages and to run so many,
// knows the other nodes, and says what the cluster is (convoy status). The effects behind it are the
// supervisor's and the links'.

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "actors/config/cluster_config.hpp"
#include "actors/messages.hpp"
#include "actors/stage_name.hpp"

namespace convoy::actors {

/// What the node actor knows of things that are not actors. Null on nodes that are not the head.
struct NodeFacts {
  std::function<std::string()> gateway_url;
  std::function<uint32_t()> gateway_connections;
  std::function<std::string()> redis_json;       // {"address", "pid", "state", "reason"}, no reason if off
  std::function<bool()> draining;                // no more requests are taken
  std::function<int64_t()> certificate_until_s;  // our own; null: links are plaintext
  /// Name of the pipeline that has that node as a member, be it removed; empty: none has.
  std::function<std::string(const std::string& node)> pipeline_of;
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
  /// Run so many stages; not of the head.
  std::function<void(uint32_t count)> keep_stages;
  std::function<NodeActor(const PeerIdentity&)> node_handle;
  std::function<ClientActor(const PeerIdentity&)> client_handle;
  std::function<GatewayActor(const PeerIdentity&)> gateway_handle;  // of the head alone
  std::function<void()> shut_down;  // begin to end this process, which says Drained if it is the head
};

struct NodeState {
  std::map<std::string, PeerIdentity> nodes;  // linked now
  std::map<std::string, NodeActor> handles;
  std::map<std::string, int64_t> nodes_since_s;  // Unix time at which each was linked, or lost, last
  /// A stage as the pipeline said last.
  struct SeenStage {
    int32_t pid = 0;
    msg::Health health = msg::Health::DOWN;
    int64_t since_s = 0;  // Unix time since when it is so
  };
  std::map<StageName, SeenStage> stages;
  /// A gateway in a process of its own.
  struct SeenGateway {
    PeerIdentity peer;
    GatewayActor handle;
    Frame<msg::GatewayState> said;  // last
  };
  std::map<std::string, SeenGateway> gateways;  // linked now, by node
  std::map<uint32_t, ClientActor> clients;
  std::map<std::string, uint32_t> told;  // how many stages each linked node is to run, by the head
  Frame<msg::NodeProblem> own_problem;
  std::map<std::string, std::string> problems;  // of nodes that are linked, by the head
  /// A pipeline, once it has reported.
  struct Pipeline {
    PipelineActor actor;
    Frame<msg::PipelineState> state;
    std::chrono::steady_clock::time_point heard{};
  };
  std::map<std::string, Pipeline> pipelines;  // by name
  NodeFacts facts;
  Frame<msg::Shutdown> shutdown;  // to be passed on
  static inline const char* name = "node";
};

NodeActor::behavior_type node(NodeActor::stateful_pointer<NodeState> self, NodeOptions options,
                              NodeFacts facts, NodeEffects effects);

}  // namespace convoy::actors
