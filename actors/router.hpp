#pragma once
// Router: gives each request to one of the pipelines that serve its model, its replicas. Its actor owns what
// these last said of themselves, and which of them had what prompts begin with; one that is silent for a
// readiness period counts as gone. docs/decisions/0038

#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "actors/messages.hpp"
#include "actors/prefix_owners.hpp"

namespace convoy::actors {

struct RouterOptions {
  uint32_t readiness_period_ms = 1000;
};

/// What a replica can take, by its latest word.
struct ReplicaLoad {
  bool accepting = false, ready = false, overloaded = false;
  uint32_t running = 0, waiting = 0, wait_estimate_ms = 0;
  double step_us = 0;   // of a step of a few rows through all stages, as measured; 0: not yet
  uint32_t sent = 0;    // requests that it got since, and says nothing of yet
  uint64_t chosen = 0;  // how often it was, so that those who are alike take turns
  uint64_t passed = 0;  // how often others were since
};

/// The replica that is expected to be done with a request first; −1 if none accepts. One that recovers, where
/// the request would wait for its stages, comes behind all that are ready, and one that would reject it last.
/// One that is at rest and was long passed over gets one: how slow it was measured to be may be long ago.
/// preferred: has the prompt's beginning in its KV blocks, and gets it unless it is much busier; −1: nobody.
int choose_replica(const std::vector<ReplicaLoad>& replicas, int preferred = -1);

/// All replicas of all models, with what they last said. Knows no clock and no actor: the router's actor, and
/// a simulation, say what time it is.
class Replicas {
 public:
  using Time = std::chrono::steady_clock::time_point;
  explicit Replicas(std::chrono::milliseconds period) : period_(period) {}

  void add(const std::string& name, const std::string& model);
  /// load: as it says; what was sent and how often it was chosen is known here. reason: why it does not
  /// accept.
  void heard(const std::string& name, ReplicaLoad load, std::string reason, Time now);
  /// Number of the one, in the order in which they were added, that gets a request; or why nobody does.
  /// prefix: PrefixOwners::key_of() its prompt.
  std::variant<size_t, std::string> choose(std::string_view model, uint64_t prefix, Time now);
  const std::string& name(size_t replica) const { return list_[replica].name; }
  size_t size() const { return list_.size(); }

 private:
  struct Replica {
    std::string name, model;
    ReplicaLoad load = {};
    std::string reason = {};
    Time heard = {};
  };
  const std::chrono::milliseconds period_;  // of silence, after which one counts as gone
  std::vector<Replica> list_;
  PrefixOwners owners_;
};

struct RouterState {
  std::optional<Replicas> replicas;
  std::vector<PipelineActor> pipelines;  // in their order
  GatewaysByNode gateways;
  static inline const char* name = "router";
};

RouterActor::behavior_type router(RouterActor::stateful_pointer<RouterState> self, RouterOptions options,
                                  GatewaysByNode gateways);

}  // namespace convoy::actors
