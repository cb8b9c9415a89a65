#pragma once
// ClusterWorld: what a seed decides about a simulated cluster: its configuration, what steps cost, who asks
// for what and when, and what fails when. The same seed makes the same world on every machine.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "test/sim/world.hpp"

namespace sim {

enum class Fault : uint8_t {
  kill_stage,
  hang_stage,      // in a step: its reporter goes on
  freeze_stage,    // for long, and then it goes on; or for so short a time that nobody notices
  freeze_head,     // for a short time
  cut_head_link,   // of a head and a stage, which both live: reset, or silent for longer than a lease
  cut_stage_link,  // the same of two stages
  delay_link,      // frames come late, in one direction or both, but no lease ends
  kill_head,
  kill_head_and_stage,
  duplicate_request,  // the gateway's frame comes twice, maybe much later
  ask_again,          // the gateway takes a running request to be lost
  change_members,     // a node joins, or is drained
  part_nodes,         // some nodes hear nothing of the head and of others: for a short time, or for leases
};
inline constexpr size_t faults_count = static_cast<size_t>(Fault::part_nodes) + 1;

/// Of the model that is simulated.
inline constexpr uint32_t cluster_layers = 3;
inline constexpr const char* model_id = "model";

struct PlannedFault {
  double at_us = 0;
  Fault kind{};
  uint64_t draw = 0;  // what else is to be decided then
};

struct ClusterWorld {
  /// With the one stage that it runs.
  struct Node {
    size_t pipeline = 0;
    bool serves = true;  // at first: it is in the plan
    double slowness = 1;
  };
  uint64_t seed = 0;
  size_t pipelines = 1;                    // of one model, in one head
  convoy::actors::SchedulerLimits limits;  // of each
  std::vector<Node> nodes;
  uint32_t device_depth = 1;
  uint32_t lease_ms = 100, step_timeout_ms = 400, readiness_period_ms = 400, load_timeout_ms = 60'000;
  double fixed_us = 0, per_row_us = 0;  // of a step, in each stage; times its node's slowness
  uint64_t rebalance_steps = 0;
  double load_us = 0, start_us = 0;  // of a layer; of a process
  double latency_us = 0;
  std::vector<Request> requests;  // by arrival
  std::vector<PlannedFault> faults;
};

/// As cluster.conf calls it, and back.
inline std::string name_of_pipeline(size_t pipeline) { return "pipeline" + std::to_string(pipeline); }
inline size_t pipeline_named(std::string_view name) { return static_cast<size_t>(name.back() - '0'); }

ClusterWorld random_cluster(uint64_t seed, size_t requests, size_t faults);

}  // namespace sim
