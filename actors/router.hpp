#pragma once
// Router: gives each request to the replica with the shortest queue. Its actor owns what the replicas last
// said of themselves; a replica that is silent for a readiness period counts as not ready.

#include <chrono>
#include <string>
#include <vector>

#include "actors/messages.hpp"

namespace convoy::actors {

struct RouterOptions {
  uint32_t readiness_period_ms = 1000;
};

/// What a replica can take, by its latest word.
struct ReplicaLoad {
  bool accepting = false;
  uint32_t running = 0, waiting = 0;
  std::string reason;
};

/// The accepting replica with the fewest requests; −1 if none is. Ties go to the lowest number.
int choose_replica(const std::vector<ReplicaLoad>& replicas);

struct RouterState {
  std::vector<PipelineActor> pipelines;
  std::vector<ReplicaLoad> loads;
  std::vector<std::chrono::steady_clock::time_point> heard;
  static inline const char* name = "router";
};

RouterActor::behavior_type router(RouterActor::stateful_pointer<RouterState> self, RouterOptions options,
                                  GatewayActor gateway);

}  // namespace convoy::actors
