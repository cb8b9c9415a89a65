#pragma once
// Simulation: one world's requests, served by the production scheduler over simulated stages in virtual time.
// It plays the pipeline actor, and checks after every step that the scheduler keeps what it promises:
//  - no KV block is owned twice, written while somebody else holds it, or lost; a slot is used once at a
//  time;
//  - a step has no more rows than the engine has room for, and its oldest prompt goes on;
//  - each request ends exactly once, its tokens come without gap or repeat and are those it gets alone;
//  - blocks are found only by whoever has the salt of who wrote them, in the second tier too;
//  - as long as something is to be done, something is done.

#include <deque>
#include <map>
#include <optional>
#include <unordered_map>

#include "test/sim/world.hpp"

namespace sim {

/// What happened in a simulation.
struct Events {
  uint64_t cancels = 0, deadlines = 0, preemptions = 0, prefix_hits = 0, follows = 0, forks = 0;
  uint64_t drafts_accepted = 0, drafts_rejected = 0, penalized_replays = 0, canaries = 0, resets = 0;
  uint64_t replays = 0, lost = 0, takeovers = 0, plans = 0;
  uint64_t stops = 0, lengths = 0, faults = 0;
  uint64_t saved = 0, loaded = 0, moves_alone = 0;  // blocks; steps that only move some
  uint64_t requests = 0, steps = 0, rows = 0;

  template <class Visit>
  void each(Visit visit) {
    visit("cancels", cancels), visit("deadlines", deadlines), visit("preemptions", preemptions);
    visit("prefix hits", prefix_hits), visit("follows", follows), visit("forks", forks);
    visit("drafts accepted", drafts_accepted), visit("drafts rejected", drafts_rejected);
    visit("penalized replays", penalized_replays), visit("canaries", canaries), visit("resets", resets);
    visit("replays", replays), visit("takeovers", takeovers);
    visit("plans", plans);
    visit("stops", stops), visit("lengths", lengths), visit("row faults", faults);
    visit("saved blocks", saved), visit("loaded blocks", loaded), visit("steps of moves alone", moves_alone);
    visit("requests", requests), visit("steps", steps), visit("rows", rows);
  }
};

/// A mistake that a test makes on purpose.
enum class Plant : uint8_t {
  none,
  leaked_block,   // the cache loses a block
  freed_block,    // a block goes back to the cache although its sequence lives
  shared_block,   // a sequence gets a block that another one writes; who owns what is not checked
  skipped_token,  // a stage does not write one position
  lost_load,      // a block does not come back from the second tier
};

class Simulation {
 public:
  explicit Simulation(const World& world, Plant plant = Plant::none);

  /// Until all requests ended. Throws Violation if something is wrong.
  Events run();

 private:
  struct Life {  // of a request
    enum class State : uint8_t { coming, held, admitted, ended } state = State::coming;
    convoy::actors::SequenceId id = 0;
    int64_t admitted_us = 0;
    uint32_t received = 0, starts = 0, cached_tokens = 0;
    uint32_t epochs = 0;   // that ended since it was admitted
    bool at_once = false;  // it began when it was admitted
  };
  struct Owner {  // of a slot
    bool alive = false, canary = false;
    size_t request = 0;
    int64_t known = 0;  // tokens when it started
  };
  struct Flying {
    double done_us;
    convoy::gpu::StepResult result;
  };
  enum class Kind : uint8_t { arrives, ends, reset, canary, cost };
  struct Event {
    Kind kind;
    size_t index = 0;
  };

  // The pipeline actor's part.
  bool plan();
  void commit();
  void happen(const Event& event);
  void admit(size_t request);
  void end(size_t request, Ends how);
  void reset();
  void lose_stage();
  void follow_plan();
  void take_over();
  void forget_stages();
  void count();
  void change_cost();
  void admit_held();

  // What is checked.
  void check_before(const convoy::gpu::StepPlan& plan);
  void check_start(const convoy::gpu::SeqStart& start, const convoy::gpu::StepPlan& plan);
  void follow_moves(const convoy::gpu::StepPlan& plan);
  void check_rows(const convoy::gpu::StepPlan& plan) const;
  void check_blocks(const convoy::gpu::StepPlan& plan);
  void check_limits() const;
  void check_progress(const convoy::actors::Progress& progress);
  void check_end() const;
  void plant(convoy::gpu::StepPlan& plan);
  convoy::actors::Scheduler::Micros now() const {
    return convoy::actors::Scheduler::Micros(static_cast<int64_t>(now_us_));
  }

  const World& world_;
  convoy::actors::SchedulerLimits limits_;  // of the plan that there is
  Plant plant_;
  bool planted_ = false;
  Random random_;
  std::optional<convoy::actors::Scheduler> scheduler_;
  Stages stages_;
  ChainTimes times_;
  convoy::actors::StepCostMeter meter_;
  double now_us_ = 0;
  std::multimap<double, Event> events_;
  std::deque<Flying> in_flight_;
  std::deque<size_t> held_;  // come, but not admitted: the pipeline was full
  std::vector<Life> lives_;
  std::unordered_map<convoy::actors::SequenceId, size_t> by_id_;  // of admitted ones
  std::vector<Owner> owners_;                                     // by slot
  std::vector<uint32_t> seen_;                                    // by block: slots that have it
  std::vector<std::string> salts_, place_salts_;                  // by block, and place: of who wrote it
  convoy::actors::SchedulerCounters counted_;
  Events happened_;
};

}  // namespace sim
