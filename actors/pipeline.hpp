#pragma once
// Pipeline: one replica of the model over a chain of stages. Its actor alone owns request state, the token
// log and the block tables (through Scheduler), knows the stages and what is ready (through StageSet), and
// says to each what it is to do.

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "actors/members.hpp"
#include "actors/messages.hpp"
#include "actors/process/child_process.hpp"
#include "actors/schedule/scheduler.hpp"

namespace prometheus {
class Registry;
}

namespace convoy::actors {

struct PipelineOptions {
  std::string name;                // as cluster.conf calls it
  std::string model;               // id of the model that it serves
  uint64_t incarnation = 0;        // new for every process start
  SchedulerLimits limits;          // queue, KV, context; the members say how many stages there are
  Members members;                 // at first
  LayerCosts costs;                // of the model
  uint64_t rebalance_steps = 256;  // of a plan: then its stages' costs are known
  uint32_t step_timeout_ms = 30'000;
  uint32_t readiness_period_ms = 1000;
  uint32_t load_timeout_ms = 600'000;
  uint32_t failure_detection_ms = 800;
  uint32_t stage_threads = 1;
  uint32_t queue_max_ms = 30'000;
  std::string kv_secret = {};  // keys the names of KV blocks
};

/// Milliseconds since 1970.
uint64_t unix_ms();

struct PipelinePeers {
  GatewaysByNode gateways;  // at first: the head's own
  RouterActor router;
  NodeActor node;  // replaces stages, and has clients
  /// Ends the link to a stage that is given up.
  std::function<void(const PeerIdentity&, const std::string& reason)> drop;
  /// Of a stage that says nothing any more. Empty: unknown.
  std::function<ProcessState(const PeerIdentity&)> process_state;
  /// Why the plan cannot be: what its stages would hold, say. peers: who is there of them; of no role:
  /// nobody. Empty: it always can.
  std::function<std::optional<std::string>(const std::vector<PlannedStage>& plan,
                                           const std::vector<PeerIdentity>& peers)>
      refuse_plan;
  /// Keeps the members for the next head. Throws InputError if it cannot. Empty: nobody does.
  std::function<void(const Members&)> keep_members;
  std::shared_ptr<prometheus::Registry> metrics;
  std::function<uint64_t()> wall_clock_ms = unix_ms;  // what requests' deadlines are by
};

struct PipelineData;
struct PipelineStateHolder {
  std::unique_ptr<PipelineData> data;
  static inline const char* name = "pipeline";
  PipelineStateHolder();
  ~PipelineStateHolder();
};

PipelineActor::behavior_type pipeline(PipelineActor::stateful_pointer<PipelineStateHolder> self,
                                      PipelineOptions options, PipelinePeers peers);

}  // namespace convoy::actors
