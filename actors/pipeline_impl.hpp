#pragma once
// What the pipeline actor is made of: its state, and its decisions in two parts. Runs only inside its actor.

#include <prometheus/counter.h>

#include <chrono>
#include <deque>
#include <string>
#include <unordered_map>
#include <vector>

#include "actors/pipeline.hpp"

namespace convoy::actors {

struct PipelineData {
  using Clock = std::chrono::steady_clock;

  struct Stage {
    PeerIdentity peer;
    StageActor handle;  // null: no process is linked
    msg::Health health = msg::Health::DOWN;
    std::string reason = "not started";
    uint32_t loaded_permille = 0;
    uint32_t oldest_step_age_ms = 0;
    bool came = false;  // a process was linked once
    uint32_t restarts = 0;
  };
  struct Request {
    uint64_t number;
    uint32_t attempt;
    uint64_t deadline_ms;
    std::string id;
    uint32_t tokens = 0;  // sent
  };
  enum class Phase : uint8_t { gathering, loading, serving };

  PipelineData(PipelineActor::stateful_pointer<PipelineStateHolder> actor, PipelineOptions o,
               PipelinePeers p);

  PipelineActor::stateful_pointer<PipelineStateHolder> self;
  PipelineOptions options;
  PipelinePeers peers;
  Scheduler scheduler;
  std::vector<Stage> stages;
  std::unordered_map<SequenceId, Request> requests;
  std::unordered_map<uint64_t, SequenceId> by_number;
  std::deque<Clock::time_point> sent;  // when each step in flight was planned
  Phase phase = Phase::gathering;
  uint64_t epoch = 0;
  Clock::time_point last_pass{}, last_published{}, loading_since{};
  bool passed = false;  // a token went through all stages in this epoch
  prometheus::Counter *steps_total, *epochs_total, *cancelled_total, *admitted_total, *generated_total;

  // requests: pipeline.cpp
  void reject(const msg::Generate::Reader& request, msg::Rejected::Reason reason, const std::string& why);
  void generate(const Frame<msg::Generate>& frame);
  void cancel(uint64_t number);
  void forget(SequenceId id);
  void fail(SequenceId id, const std::string& why);
  void deliver(const Progress& p);

  // steps: pipeline.cpp
  void pump();
  void commit(const Frame<msg::StepResult>& frame);

  // stages: pipeline_stages.cpp
  void stage_up(const StageUp& up);
  void raise_epoch();
  void report(const Frame<msg::StageReport>& frame);
  void stage_down(const caf::down_msg& down);
  void abandon(const std::string& why);
  void give_up(uint32_t index, msg::Health health, const std::string& why, bool replace = true);

  // time and health: pipeline_stages.cpp
  bool ready() const;
  std::string not_ready_reason() const;
  void publish();
  void tick();
  uint32_t slowest_stage() const;
};

}  // namespace convoy::actors
