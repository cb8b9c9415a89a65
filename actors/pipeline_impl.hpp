#pragma once
// What the pipeline actor is made of: its state, and what it does, in four files. Runs only inside its actor.

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

/// What is wrong with a row, for whoever asked for it.
std::string explain(gpu::RowFault fault);

struct PipelineData {
  using Clock = caf::actor_clock::clock_type;

  /// By node and number: each gateway counts for itself.
  using RequestName = std::pair<std::string, uint64_t>;
  struct Request {
    RequestName name;
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
  Members members;
  std::vector<PlannedStage> plan;
  std::map<StageName, double> layer_us;  // of a step, in each stage that was measured
  uint64_t plan_steps = 0;               // in the epochs of this plan
  bool rebalanced = false;               // since the members changed last
  Scheduler scheduler;
  StageSet stages;
  std::map<StageName, StageActor> handles;            // of those that are linked, in the plan or beside
  std::map<std::string, std::string> not_joined_yet;  // why, by node
  std::map<StageName, model::LayerRange> prepared;    // what stages were told to fetch for a plan to come
  std::unordered_map<SequenceId, Request> requests;
  std::map<RequestName, SequenceId> by_name;
  GatewaysByNode gateways = peers.gateways;
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
      *generated_total, *slow_total, *rebalanced_total;
  std::map<StageLoss, prometheus::Counter*> lost_total;
  prometheus::Histogram *prefill_seconds, *decode_seconds, *mixed_seconds;

  Scheduler::Micros now() const {
    return std::chrono::duration_cast<Scheduler::Micros>(self->clock().now().time_since_epoch());
  }

  // requests: pipeline.cpp
  void generate(const Frame<msg::Generate>& frame);
  int64_t wait_ms() const;
  std::optional<std::string> overload() const;
  uint32_t retry_after_ms() const;
  void publish_overload();
  void cancel(const RequestName& name);
  void forget(SequenceId id);

  // gateways: pipeline_answers.cpp
  void gateway_up(const GatewayUp& up);
  bool gateway_down(const caf::down_msg& down);  // whether it was one
  void forget_all_of(const std::string& node);
  template <class T>
  void answer(const std::string& node, Frame<T> frame) const;
  void accept(const Request& request) const;
  void reject(const msg::Generate::Reader& request, msg::Rejected::Reason reason, const std::string& why);
  void fail(SequenceId id, const std::string& why);
  void deliver(const std::vector<Progress>& progress);
  void deliver_to(const std::string& node, const std::vector<Progress>& progress);
  void add_answer(const Progress& p, Request& r, msg::Tokens::Builder tokens) const;
  void add_end(const Progress& p, const Request& r, msg::Finished::Builder finished) const;

  // steps: pipeline.cpp
  void pump();
  prometheus::Histogram* seconds_of(const gpu::StepPlan& plan) const;
  void measure(bool requests);
  void commit(const Frame<msg::StepResult>& frame);
  bool from(const StageActor& handle, const char* what) const;  // whether that stage sent what is handled now

  // members: pipeline_members.cpp
  void member_command(const Frame<msg::MemberCommand>& frame);
  std::optional<std::string> change_members(const MemberCommand& command);
  std::optional<std::string> refuse(const Members& next) const;
  void follow(Members next);
  void adopt(std::vector<PlannedStage> wanted);
  std::vector<PeerIdentity> peers_of(const std::vector<PlannedStage>& wanted) const;
  void learn_speeds();
  std::vector<StageOffer> known_offers() const;
  void rebalance();
  void arrived(const std::string& node);
  bool prepare(const std::vector<PlannedStage>& wanted);
  void fetched();
  void encode_members(msg::PipelineState::Builder state) const;

  // stages: pipeline_stages.cpp
  StageActor handle(size_t index) const;  // of that stage; null: no process is linked
  std::optional<uint32_t> sender() const;
  void stage_up(const StageUp& up);
  void raise_epoch(Scheduler::EpochCause cause = Scheduler::EpochCause::maybe_a_request);
  void report(const Frame<msg::StageReport>& frame);
  void heard(uint32_t index, const StageSet::Report& report);
  void size_memory();
  void stage_down(const caf::down_msg& down);
  void begin_epoch(Scheduler::EpochCause cause = Scheduler::EpochCause::maybe_a_request);
  void lose(const std::vector<Scheduler::Lost>& lost);
  void give_up(uint32_t index, StageLoss loss, const std::string& why);
  void replace(const StageName& name, uint64_t incarnation, const std::string& why);
  void ask_to_replace(uint32_t index, uint64_t incarnation, const std::string& why);

  // time and health: pipeline_stages.cpp
  void publish();
  void tick();
};

}  // namespace convoy::actors
