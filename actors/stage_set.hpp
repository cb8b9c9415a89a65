#pragma once
// StageSet: the stages of one pipeline, its epoch and its time-outs: who is there, what the pipeline is
// doing, which stage is lost, when a canary is due, whether the pipeline is ready and why not. Processes that
// are there and have no part in the plan stand beside. It decides, and has no effects: the pipeline actor
// hands in what it hears and the time, and does what comes back. No clock, no actor: tests drive it alone.

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "actors/link/peer_identity.hpp"
#include "actors/schedule/step_cost.hpp"
#include "actors/stage_loss.hpp"
#include "actors/stage_name.hpp"
#include "model/checkpoint/checkpoint.hpp"
#include "schema/convoy.capnp.h"

namespace convoy::actors {

struct StageSetOptions {
  uint32_t stage_threads = 1;         // that compute in each stage: what its canaries keep busy
  uint32_t step_timeout_ms = 30'000;  // from when a stage began a step, or linked itself and says nothing
  uint32_t readiness_period_ms = 1000;
  uint32_t load_timeout_ms = 600'000;  // of a stage that does not link itself, or does not load
  uint32_t ask_again_ms = 800;         // for a replacement that has not come
};

class StageSet {
 public:
  using Clock = std::chrono::steady_clock;
  using Time = Clock::time_point;

  /// gathering: not all processes are linked and have said in which epoch they are; loading: all have, and
  /// load their layers; serving: steps run.
  enum class Phase : uint8_t { gathering, loading, serving };

  struct Stage {
    StageName name;
    PeerIdentity peer;  // of the latest process
    bool linked = false;
    bool heard = false;  // it has reported since, so its epoch is known
    uint64_t epoch = 0;  // that it said last
    schema::Health health = schema::Health::DOWN;
    std::string reason = "not started";
    uint32_t loaded_permille = 0;
    uint32_t step_age_ms = 0;  // of the step that it computes
    bool slow = false;         // it computes that for longer than slow_share of what it may
    StepCost cost;
    uint32_t kv_blocks = 0;                      // that it holds, once it is loaded
    uint32_t kv_places = 0;                      // that its second tier keeps
    bool lacks_model = false;                    // it fetches what its layers need
    std::optional<model::LayerRange> fetched{};  // whose weights it has
    uint64_t fetch_progress = 0;
    uint32_t restarts = 0;  // processes that took the place of an earlier one
    // By its own clock: how long it computed until when, when the measurement under way began.
    uint64_t busy_us = 0, clock_us = 0;
    float bubble_ratio = 0;  // of the last whole measurement: the share of the time in which it did not
    Time missing_since{},
        asked{};  // while nothing was heard: since when, and when a replacement was asked for
  };

  /// What a stage says of itself (schema::StageReport).
  struct Report {
    uint64_t epoch = 0;
    schema::Health health = schema::Health::LOADING;
    uint32_t loaded_permille = 0;
    uint32_t step_age_ms = 0;
    std::string reason;
    StepCost cost;
    uint32_t kv_blocks = 0, kv_places = 0;
    uint64_t busy_us = 0, clock_us = 0;
    bool lacks_model = false;
    std::optional<model::LayerRange> fetched{};
    uint64_t fetch_progress = 0;  // grows while it fetches
  };
  /// What a report asks for.
  enum class Consequence : uint8_t {
    none,
    changed,  // tell who shows it
    lost,     // it failed: give it up
    raise,    // all stages are there now, or it lost its next one: raise the epoch
    arrived,  // it stands beside the plan, and reported for the first time
    serve,    // the last one is loaded: steps may run, and a canary first
  };

  /// What is due by now.
  struct Due {
    struct Lost {
      uint32_t index;
      StageLoss loss;
      std::string reason;
    };
    struct Replacement {
      uint32_t index;
      uint64_t incarnation;  // 0: whichever process runs
      std::string reason;
    };
    std::vector<Lost> lost;                 // stages that are late
    std::vector<Replacement> replacements;  // to be asked for, again
    bool canary = false;
  };

  StageSet(const StageSetOptions& options, const std::vector<StageName>& plan, Time now);

  /// Where that stage is: one of the plan below stages().size(), one beside behind them.
  std::optional<uint32_t> find(const StageName& name) const;
  const Stage& stage(uint32_t index) const { return all_.at(index); }
  /// Stages of that node that have reported, in the plan or beside.
  uint32_t heard_of(const std::string& node) const;

  /// Another plan: from the next epoch on these are the stages, in this order. Who has no part in it any more
  /// stands beside as long as it is linked. True if all are there, so that the epoch can be raised at once.
  bool replan(const std::vector<StageName>& plan, Time now);

  /// A process linked itself as a stage, of the plan or beside. It is there once it has reported.
  void join(const PeerIdentity& peer, Time now);
  /// The next epoch: every stage is assigned its layers anew. Returns its number.
  uint64_t raise(Time now);
  /// A stage may be in an epoch of a head that is gone. So the first epoch waits until all have said theirs,
  /// and is above them: no report and no frame of another head's epoch can be taken for one of this head's.
  Consequence report(uint32_t index, const Report& report, Time now);
  /// Its process is gone, or given up. Whoever holds its link ends that. One beside is forgotten.
  void lose(uint32_t index, schema::Health health, const std::string& reason, Time now);
  /// A step was sent while none was in flight: from now on the stages owe one.
  void sent_first(Time now) { quiet_since_ = now; }
  /// A step came back. True if the pipeline became ready by that.
  bool committed(Time now);
  /// A canary came back without a token.
  void canary_failed(const std::string& why);

  Due due(Time now, bool in_flight) const;
  /// A replacement was asked for.
  void asked(uint32_t index, Time now);

  bool ready(Time now, bool in_flight) const;
  std::string why_not_ready() const;
  /// What stages of that node that stand beside the plan say; empty: nothing.
  std::string why_beside(const std::string& node) const;
  /// KV blocks of the stage that has fewest.
  uint32_t kv_blocks() const;
  /// The same of those that hold theirs already, for the same layers as in the epoch to come; 0: none does.
  uint32_t kv_blocks_before() const;
  /// KV blocks that the smallest second tier keeps; 0: not all stages have one.
  uint32_t kv_places() const;
  /// What a step costs the slowest stage.
  StepCost slowest() const;
  /// Whether each stage computes on a GPU that no other has.
  bool on_own_cards() const;
  /// How long the pipeline may rest before a canary proves that it works: half of the readiness period, and
  /// longer if a canary costs so much that it would take more than canary_share_max of a core.
  Clock::duration canary_interval() const;

  /// Of the plan, in its order.
  std::span<const Stage> stages() const { return {all_.data(), planned_}; }
  Phase phase() const { return phase_; }
  uint64_t epoch() const { return epoch_; }

 private:
  static constexpr double canary_share_max = 0.002;      // of one core
  static constexpr uint32_t slow_share = 4;              // so many times as long, and it counts as hung
  static constexpr uint64_t bubble_time_us = 1'000'000;  // that a bubble ratio is measured over, at least

  static void measure_bubble(Stage& stage, const Report& report);
  std::span<Stage> planned() { return {all_.data(), planned_}; }
  Consequence report_beside(Stage& stage, const Report& report) const;

  const StageSetOptions options_;
  std::vector<Stage> all_;  // those of the plan, and then those beside
  size_t planned_ = 0;
  Phase phase_ = Phase::gathering;
  uint64_t epoch_ = 0;
  bool layers_move_ = false;  // since it served last: who has blocks has them for other layers
  bool passed_ = false;       // a token went through all stages in this epoch
  std::string canary_fault_;  // why the last canary gave none
  Time loading_since_{}, last_pass_{};
  Time quiet_since_{};  // since when no stage has said that it computes, while steps are in flight
};

}  // namespace convoy::actors
