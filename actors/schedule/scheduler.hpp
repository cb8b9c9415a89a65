#pragma once
// Scheduler: which rows run in the next step. Owns the requests of one pipeline: token logs, slots, KV blocks
// and the steps in flight. No clock, no actor, no device: the pipeline actor calls it and says what time it
// is, and tests drive it alone.
//
// Continuous batching over P stages: at most P + slack steps are in flight, or as many more as there are more
// micro-batches, and chunks of a prompt may follow each other because stages run steps in order. Decodes form
// as many micro-batches as pay off by the measured cost of a step, at most half as many more than P, and
// prompts are read in steps that are about as long as others (docs/decisions/0027). A micro-batch is planned
// one step ahead of its tokens, which the last stage then feeds back to the first (docs/decisions/0006), and
// takes along who is waiting to join: no step waits for the scheduler, and no decode runs alone because its
// token came a little earlier or later than the others' (docs/decisions/0011).
//
// Nothing is reserved for what a sequence may grow to. It begins behind the blocks that earlier ones left,
// takes blocks as it grows, and is preempted for others if it has to be: then it lives again later, and its
// tokens so far are computed as those of a prompt are (docs/decisions/0021).

#include <boost/intrusive/list.hpp>
#include <chrono>
#include <cstdint>
#include <deque>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "actors/schedule/drafts.hpp"
#include "actors/schedule/kv_cache.hpp"
#include "actors/schedule/load_meter.hpp"
#include "actors/schedule/step_cost.hpp"
#include "actors/schedule/tenants.hpp"
#include "gpu/step.hpp"

namespace convoy::actors {

/// Cached tokens that the starts of one step bring along for penalties, at most: 256 KiB of a frame. More
/// than that of a sequence is computed again.
inline constexpr size_t history_tokens_max = 65'536;

struct SchedulerLimits {
  uint32_t stages = 1;
  uint32_t slack = 1;             // pipeline_slack
  uint32_t sequences = 64;        // running at once
  uint32_t queue = 64;            // waiting, beside as many as may run
  uint32_t kv_blocks = 1024;      // 0: not known before the stages have said how many they have
  KvTierLimits kv_tier = {};      // places 0: there is none, or the stages have not said how many they have
  uint32_t prefill_tokens = 512;  // of prompts in one step
  uint32_t prefill_share = 4;     // the most of these shares that one prompt gets while others wait
  float prefill_stretch = 2.5f;   // how many times as long a step of decodes may take with prompts beside
  uint32_t replays_max = 3;       // of one sequence
  int64_t context_tokens = 0;
  int64_t vocab = 0;

  uint32_t steps_in_flight() const { return static_cast<uint32_t>(micro_batches_max(stages)) + slack; }
  /// A slot is taken again only in a later step than the one that ends it, so there are twice as many.
  uint32_t slots() const { return 2 * (sequences + 1); }
  /// Rows that one step may have: the engine's buffers.
  int64_t rows() const { return int64_t{prefill_tokens} + sequences + 1; }
};

struct NewSequence {
  std::vector<int32_t> prompt;
  model::Sampling sampling;
  uint32_t max_tokens = 1;              // of the answer, what is generated already included
  std::string tenant = {};              // who asks, to be served as much as others
  std::string salt = {};                // who may find its blocks: sequences with the same one
  uint8_t priority = priority_default;  // below priorities; a higher one goes first
  uint32_t drafts = 0;                  // tokens that may be guessed ahead, in one step; 0: none
  std::vector<int32_t> generated =
      {};  // the answer so far, by a pipeline that is gone: it goes on from there
};

enum class FinishReason : uint8_t { none, stop, length, failed };

/// Where a sequence's time went.
struct SequenceTimes {
  std::chrono::microseconds queued{}, prefill{}, decode{};
  std::chrono::microseconds preempted{};  // from each preemption, or epoch's end, until its next token
};

struct SequenceFacts {
  uint32_t cached_tokens = 0;  // of the prompt, when it first began: found in blocks of earlier sequences
  uint32_t preemptions = 0;
  uint32_t replays = 0;  // in new epochs, because it was in a step that did not end
  SequenceTimes times;
};

/// What a committed step gave one sequence.
struct Progress {
  SequenceId id = 0;
  uint32_t first_index = 0;               // of tokens.front() in the answer
  std::vector<gpu::SampledToken> tokens;  // none if it failed
  FinishReason finish = FinishReason::none;
  gpu::RowFault fault = gpu::RowFault::none;  // why it failed
  bool canary = false;
  SequenceFacts facts = {};  // of one that has not finished, times until its state changed last
};

/// Since the scheduler was made.
struct SchedulerCounters {
  uint64_t prompt_tokens = 0, cached_tokens = 0;  // of sequences that began, replays included
  uint64_t preemptions = 0;
  uint64_t drafted_tokens = 0, accepted_tokens = 0;
  uint64_t saved_blocks = 0, loaded_blocks = 0;  // to the stages' second tier, and from there
};

class Scheduler {
 public:
  using Micros = std::chrono::microseconds;  // since any beginning; never goes back

  /// secret: keys the names of KV blocks.
  explicit Scheduler(SchedulerLimits limits, std::string secret = {});
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  /// Why a sequence can never run, or nothing.
  std::optional<std::string> refuse(const NewSequence& sequence) const;
  /// Whether one that came now were one too many.
  bool full() const;
  /// How long one that came now would wait until it begins, by measured rates.
  Micros wait_estimate() const;
  /// Takes a sequence that refuse() lets pass. It starts at once if there is room for it.
  SequenceId admit(NewSequence sequence, Micros now);
  /// One token through every stage: proves that the pipeline works. Not counted as a request.
  void request_canary() { canary_wanted_ = true; }
  /// Forgets a sequence; results that are still in flight for it are ignored.
  void cancel(SequenceId id);

  /// The next step, or nothing if there is no work or enough is in flight. The caller fills in epoch.
  std::optional<gpu::StepPlan> plan(Micros now);
  /// Takes the result of the oldest step in flight. Throws std::runtime_error if it is not that step's.
  std::vector<Progress> commit(gpu::StepResult result, Micros now);

  /// What a step costs the slowest stage, as measured, and what splitting has to gain: decide how many
  /// micro-batches the decodes form, and how much of prompts runs beside decodes.
  void set_step_cost(StepCost cost, float gain_min = split_gain_min) { cost_ = cost, gain_min_ = gain_min; }

  /// A sequence that cannot go on, and is forgotten.
  struct Lost {
    SequenceId id;
    std::string why;
  };
  /// A new epoch: the stages have forgotten everything, and what is in flight never ends. Steps count from 0
  /// again. No sequence is lost by it: each that ran runs again when there is room, its tokens so far being
  /// computed as a prompt's are. But if a stage ended or hung, one that was in a step that did not end may
  /// have been why: from its second replay on it runs alone until it has its next token, and after
  /// replays_max it is lost.
  enum class EpochCause : uint8_t { maybe_a_request, no_request };
  struct EpochEnd {
    std::vector<SequenceId> suspects;  // were in such a step, and are not lost
    std::vector<Lost> lost;
  };
  EpochEnd begin_epoch(Micros now, EpochCause cause = EpochCause::maybe_a_request);
  /// Over how many stages steps go, in an epoch that has none yet.
  void set_stages(uint32_t stages);
  /// How many blocks every stage has, and places in its second tier, in an epoch that has no step yet. Those
  /// that need more blocks are lost.
  std::vector<Lost> set_kv_blocks(uint32_t blocks, uint32_t places, Micros now);

  size_t running() const { return running_; }
  size_t waiting() const { return waiting_; }
  size_t in_flight() const { return in_flight_.size(); }
  /// Of these, how many sample.
  size_t micro_batches_in_flight() const { return sampling_in_flight_; }
  /// Of the latest steps that ran rows of requests, on average, older ones fading; 0: there were none.
  float rows_per_step() const { return rows_per_step_; }
  /// Blocks that sequences hold.
  uint32_t kv_blocks_used() const;
  const SchedulerLimits& limits() const { return limits_; }
  const SchedulerCounters& counters() const { return counters_; }
  const KvCache& kv_cache() const { return *cache_; }

 private:
  /// waiting: for a slot and blocks; following: for a prefix that another sequence computes, or that the
  /// next steps load; ready: its next token's row can be planned; flying: that token is being computed.
  enum class State : uint8_t { waiting, following, prefilling, ready, flying };
  static bool decodes(State state) { return state == State::ready || state == State::flying; }

  struct Sequence : boost::intrusive::list_base_hook<> {
    SequenceId id = 0;
    Tenant* tenant = nullptr;  // the canary's: null
    uint8_t priority = priority_default;
    bool canary = false;
    State state = State::waiting;
    std::vector<int32_t> tokens;  // the log: prompt and committed tokens
    uint32_t prompt_tokens = 0, max_tokens = 0;
    model::Sampling sampling;
    std::vector<BlockKey> keys;  // the root, and that of each full block that was asked for
    std::optional<PromptLookup> lookup;
    std::vector<int32_t> drafts;  // in flight

    // Of its present life, from when it starts until it ends or is preempted. 0: it does not live.
    uint64_t life = 0;
    uint32_t slot = 0;
    uint32_t planned = 0;      // positions that have been given to a step, or were cached
    uint32_t published = 0;    // blocks that can be found
    uint32_t in_flight = 0;    // steps that sample
    uint64_t newest_step = 0;  // that has rows of it, + 1
    size_t in_step = 0;        // which of its sequences it is
    bool begun = false;        // a step has had rows of it
    uint32_t announced = 0;    // blocks behind `published` that others may wait for
    uint32_t listed = 0;       // what its tenant's list says that is left of its prompt
    std::vector<uint32_t> blocks;

    SequenceFacts facts;
    bool ever_begun = false;
    Micros since{};  // of its times, what is not counted yet
  };
  using Ready = boost::intrusive::list<Sequence, boost::intrusive::constant_time_size<false>>;

  /// Rows of one sequence in a step.
  struct FlyingRows {
    uint64_t life;
    uint32_t slot;
    uint32_t end = 0;      // the position behind them
    uint32_t sampled = 0;  // rows that sample
  };
  struct FlyingStep {
    uint64_t step;
    Micros planned_at{};
    uint32_t rows = 0, prompt_rows = 0;  // of requests; of these, of prompts
    uint32_t drafts = 0;                 // rows that only check a guess
    size_t history = 0;                  // tokens that starts bring along
    bool samples = false;
    std::vector<FlyingRows> sequences = {};  // in the order of the plan
  };
  /// A block that a sequence is about to compute, and who waits for it.
  struct Pending {
    uint64_t life;
    std::vector<SequenceId> followers = {};
  };

  // Starting and ending: scheduler.cpp
  static std::optional<std::string> refuse_generated(const NewSequence& sequence);
  std::optional<std::string> refuse_size(uint64_t prompt_tokens, uint64_t max_tokens) const;
  void start_waiting();
  void start_alone();
  bool somebody_may_start() const;
  size_t share() const;
  void start_canary();
  bool start(Sequence& s);
  bool make_room_for(const Sequence& s);
  void enter(Sequence& s, State state);
  void list(Sequence& s);
  void unlist(Sequence& s);
  uint32_t owed(const Sequence& s) const;
  void count_time(Sequence& s);
  void end_life(Sequence& s);
  void requeue(Sequence& s);
  void preempt(Sequence& s);
  void erase(Sequence& s);
  void forget_stages();
  Sequence* living(uint32_t slot, uint64_t life) const;

  // Blocks: scheduler_blocks.cpp
  const BlockKey& key_of(Sequence& s, size_t block);
  size_t shareable_blocks(const Sequence& s) const;
  bool take_blocks(Sequence& s);
  void find_more(Sequence& s);
  void follow_or_announce(Sequence& s);
  void retract(Sequence& s);
  void publish(Sequence& s, uint32_t computed);
  void resolve(const BlockKey& key, uint64_t life);
  void wake_followers();
  enum class Grown : uint8_t { yes, later, preempted };
  Grown grow(Sequence& s, uint32_t end);

  // Planning: scheduler_plan.cpp
  size_t steps_wanted() const;
  size_t batches_wanted() const;
  void help_short_one();
  void add_decodes(gpu::StepPlan& plan, FlyingStep& flying);
  void add_ready(size_t most, gpu::StepPlan& plan, FlyingStep& flying);
  void add_ahead(const FlyingStep& step, size_t most, gpu::StepPlan& plan, FlyingStep& flying);
  Sequence* goes_on_ahead(const FlyingRows& rows) const;
  Grown add_decode(Sequence& s, gpu::StepPlan& plan, FlyingStep& flying);
  uint32_t drafts_max() const;
  void add_prefill(gpu::StepPlan& plan, FlyingStep& flying);
  void add_moves(gpu::StepPlan& plan);
  uint32_t brings(const Sequence& s) const;
  uint32_t prefill_budget(const FlyingStep& flying) const;
  size_t rows_beside_decodes(uint64_t tokens, size_t decodes) const;
  void add_rows(Sequence& s, uint32_t count, gpu::StepPlan& plan, FlyingStep& flying);
  void begin_facts(Sequence& s);

  // Results: scheduler_commit.cpp
  void check(const FlyingStep& flying, const gpu::StepResult& result) const;
  Progress take(Sequence& s, gpu::SampledTokens sampled);
  void measure(const FlyingStep& flying, size_t finished);

  SchedulerLimits limits_;
  BlockKeys block_keys_;
  StepCost cost_;
  float gain_min_ = split_gain_min;
  Micros now_{};

  std::unordered_map<SequenceId, Sequence> sequences_;
  Tenants tenants_;
  std::optional<KvCache> cache_;
  uint32_t canary_block_ = 0;
  std::unordered_map<BlockKey, Pending, BlockKey::Hash> pending_;
  std::vector<SequenceId> woken_;
  std::vector<Sequence*> by_slot_;  // whose life it is
  std::vector<uint32_t> free_slots_, ended_slots_;
  std::set<std::pair<uint8_t, SequenceId>> victims_;  // that run: priority, and age from the youngest on
  std::set<SequenceId> prefilling_;                   // by age, without the canary
  std::set<SequenceId> alone_;                        // that nobody may run beside, until each has a token
  Ready ready_;                                       // in the order in which they became it
  SequenceId short_ = 0;  // was left out of a step for want of a block; 0: none was
  Sequence* canary_ = nullptr;
  std::deque<FlyingStep> in_flight_;
  uint64_t next_step_ = 0, next_life_ = 1;
  SequenceId next_id_ = 1;
  size_t running_ = 0, waiting_ = 0, decoding_ = 0, sampling_in_flight_ = 0;
  uint64_t backlog_ = 0;  // tokens of prompts that no step has yet
  float rows_per_step_ = 0;
  bool canary_wanted_ = false;
  bool lacks_blocks_ = false;  // whoever's turn it is could run, but for them
  SchedulerCounters counters_;
  LoadMeter load_;
  Micros committed_at_{};
};

}  // namespace convoy::actors
