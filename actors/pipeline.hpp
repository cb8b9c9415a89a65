#pragma once
// Pipeline: one replica of the model over a chain of stages. Its actor alone owns request state, the token
// log and the block tables (through Scheduler), knows the stages and what is ready (through StageSet), and
// says to each what it is to do.

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "actors/messages.hpp"
#include "actors/process/child_process.hpp"
#include "actors/schedule/scheduler.hpp"
#include "model/checkpoint/checkpoint.hpp"

namespace prometheus {
class Registry;
}

namespace convoy::actors {

struct PipelineOptions {
  uint32_t instance = 0;
  SchedulerLimits limits;                 // stages, queue, KV, context
  std::vector<model::LayerRange> layers;  // of each stage
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
  std::string gateway_node;
  GatewayActor gateway;
  RouterActor router;
  NodeActor node;  // replaces stages
  /// Ends the link to a stage that is given up.
  std::function<void(const PeerIdentity&, const std::string& reason)> drop;
  /// Of a stage that says nothing any more. Empty: unknown.
  std::function<ProcessState(const PeerIdentity&)> process_state;
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
