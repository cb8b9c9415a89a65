#pragma once
// What the pipeline actor is made of: its state, and what it does, in two files. Runs only inside its actor.

#include <prometheus/counter.h>
#include <prometheus/histogram.h>

#include <chrono>
#include <deque>
#include <map>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "actors/pipeline.hpp"
#include "actors/stage_loss.hpp"
#include "actors/stage_set.hpp"

namespace convoy::actors {

struct PipelineData {
  using Clock = caf::actor_clock::clock_type;

  struct Request {
    uint64_t number;
    uint32_t attempt;
    uint64_t deadline_ms;
    std::string id;
    uint32_t generated;  // tokens that the session had before
    uint32_t tokens;     // that it has
  };
  using Phase = StageSet::Phase;

  PipelineData(PipelineActor::stateful_pointer<PipelineStateHolder> actor, PipelineOptions o,
               PipelinePeers p);

  PipelineActor::stateful_pointer<PipelineStateHolder> self;
  PipelineOptions options;
  PipelinePeers peers;
  Scheduler scheduler;
  StageSet stages;
  std::vector<StageActor> handles;  // of the stages; null: no process is linked
  std::unordered_map<SequenceId, Request> requests;
  std::unordered_map<uint64_t, SequenceId> by_number;
  std::set<std::pair<uint64_t, SequenceId>> deadlines;  // Unix ms, of those that have one
  bool has_served = false;  // from then on requests wait for the stages, if it has to be
  Clock::time_point last_published{};
  bool said_overloaded = false;  // when it published last
  /// A step on its way.
  struct Flight {
    prometheus::Histogram* seconds;  // of steps of its kind
    Clock::time_point sent;
  };
  std::deque<Flight> flights;
  Clock::time_point last_commit{};
  prometheus::Counter *steps_total, *epochs_total, *cancelled_total, *admitted_total, *rejected_total,
      *generated_total, *slow_total;
  std::map<StageLoss, prometheus::Counter*> lost_total;
  prometheus::Histogram *prefill_seconds, *decode_seconds, *mixed_seconds;

  Scheduler::Micros now() const {
    return std::chrono::duration_cast<Scheduler::Micros>(self->clock().now().time_since_epoch());
  }

  // requests: pipeline.cpp
  void reject(const msg::Generate::Reader& request, msg::Rejected::Reason reason, const std::string& why);
  void generate(const Frame<msg::Generate>& frame);
  int64_t wait_ms() const;
  std::optional<std::string> overload() const;
  uint32_t retry_after_ms() const;
  void publish_overload();
  void cancel(uint64_t number);
  void forget(SequenceId id);
  void fail(SequenceId id, const std::string& why);
  void deliver(const std::vector<Progress>& progress);
  void add_answer(const Progress& p, Request& r, msg::Tokens::Builder tokens) const;
  void add_end(const Progress& p, const Request& r, msg::Finished::Builder finished) const;

  // steps: pipeline.cpp
  void pump();
  prometheus::Histogram* seconds_of(const gpu::StepPlan& plan) const;
  void measure(bool requests);
  void commit(const Frame<msg::StepResult>& frame);
  bool from(const StageActor& handle, const char* what) const;  // whether that stage sent what is handled now

  // stages: pipeline_stages.cpp
  void stage_up(const StageUp& up);
  void raise_epoch();
  void report(const Frame<msg::StageReport>& frame);
  void size_memory();
  void stage_down(const caf::down_msg& down);
  void begin_epoch();
  void lose(const std::vector<Scheduler::Lost>& lost);
  void give_up(uint32_t index, StageLoss loss, const std::string& why);
  void ask_to_replace(uint32_t index, uint64_t incarnation, const std::string& why);

  // time and health: pipeline_stages.cpp
  void publish();
  void tick();
};

}  // namespace convoy::actors
