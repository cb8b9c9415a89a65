#include "test/sim/simulation.hpp"

#include <algorithm>

namespace sim {

using namespace convoy;
using actors::FinishReason;
using std::to_string;

namespace {

constexpr uint64_t plant_every = 10;     // steps
constexpr double takeover_share = 0.25;  // of new epochs, those of a new head
constexpr double plan_share = 0.25;      // of the others, those of a new plan
constexpr uint64_t stages_max = 4;
// Of one request: more say that its room is given away and taken back for nothing.
constexpr uint32_t preemptions_max = 20;

}  // namespace

Simulation::Simulation(const World& world, Plant plant)
    : world_(world),
      limits_(world.limits),
      plant_(plant),
      random_(~world.seed),
      scheduler_(std::in_place, world.limits, "secret"),
      stages_(world.limits),
      times_(world.limits.stages, world.costs, world.seed),
      lives_(world.requests.size()),
      owners_(world.limits.slots()),
      seen_(world.limits.kv_blocks),
      salts_(world.limits.kv_blocks),
      place_salts_(world.limits.kv_tier.places) {
  for (size_t i = 0; i < world.requests.size(); ++i) {
    const Request& r = world.requests[i];
    events_.emplace(r.arrives_us, Event{Kind::arrives, i});
    if (r.ends != Ends::by_itself) events_.emplace(r.arrives_us + r.ends_after_us, Event{Kind::ends, i});
  }
  for (const double at : world.resets_us) events_.emplace(at, Event{Kind::reset});
  for (const double at : world.canaries_us) events_.emplace(at, Event{Kind::canary});
  for (const double at : world.cost_changes_us) events_.emplace(at, Event{Kind::cost});
}

Events Simulation::run() {
  for (;;) {
    if (in_flight_.empty() || !random_.chance(world_.idle_chance)) {
      while (plan()) check_limits();
      require(!in_flight_.empty() || by_id_.empty(), (by_id_.size()), " requests wait, but nothing runs");
    }
    if (in_flight_.empty() && events_.empty()) break;
    if (events_.empty() || (!in_flight_.empty() && in_flight_.front().done_us <= events_.begin()->first)) {
      now_us_ = std::max(now_us_, in_flight_.front().done_us);
      commit();
    } else {
      now_us_ = events_.begin()->first;
      const Event event = events_.begin()->second;
      events_.erase(events_.begin());
      happen(event);
    }
  }
  check_end();
  count();
  happened_.rows += stages_.rows_run();
  return happened_;
}

/// What this scheduler did.
void Simulation::count() {
  const auto& counters = scheduler_->counters();
  happened_.preemptions += counters.preemptions;
  happened_.drafts_accepted += counters.accepted_tokens;
  happened_.drafts_rejected += counters.drafted_tokens - counters.accepted_tokens;
  happened_.saved += counters.saved_blocks;
  happened_.loaded += counters.loaded_blocks;
}

// ---- the pipeline actor's part ----

bool Simulation::plan() {
  auto plan = scheduler_->plan(now());
  if (!plan) return false;
  ++happened_.steps;
  happened_.moves_alone += plan->sequences.empty();
  this->plant(*plan);
  check_before(*plan);
  auto result = stages_.run(*plan);
  check_blocks(*plan);
  in_flight_.push_back({times_.run(*plan, now_us_), std::move(result)});
  meter_.add(static_cast<size_t>(plan->rows()), times_.took_us());
  return true;
}

void Simulation::commit() {
  auto result = std::move(in_flight_.front().result);
  in_flight_.pop_front();
  for (const actors::Progress& progress : scheduler_->commit(std::move(result), now()))
    check_progress(progress);
  admit_held();
}

void Simulation::happen(const Event& event) {
  switch (event.kind) {
    case Kind::arrives:
      if (scheduler_->full() || !held_.empty()) {
        if (lives_[event.index].state == Life::State::coming) {
          lives_[event.index].state = Life::State::held;
          held_.push_back(event.index);
        }
      } else {
        admit(event.index);
      }
      return;
    case Kind::ends:
      return end(event.index, world_.requests[event.index].ends);
    case Kind::reset:
      return reset();
    case Kind::canary:
      return scheduler_->request_canary();
    case Kind::cost:
      return change_cost();
  }
}

void Simulation::admit(size_t request) {
  Life& life = lives_[request];
  const Request& r = world_.requests[request];
  require(!scheduler_->refuse(r.sequence), "a request that fits is refused");
  const size_t waiting = scheduler_->waiting();
  ++happened_.requests;
  life = {.state = Life::State::admitted, .admitted_us = now().count()};
  life.id = scheduler_->admit(r.sequence, now());
  life.at_once = scheduler_->waiting() == waiting;
  require(by_id_.emplace(life.id, request).second, "an id is given twice");
}

/// The head was lost, and its scheduler with it: the next one is asked for what is left of each answer.
void Simulation::take_over() {
  ++happened_.takeovers;
  count();
  scheduler_.emplace(limits_, "secret");
  auto before = std::exchange(by_id_, {});
  for (const auto& [id, request] : std::map(before.begin(), before.end())) {
    Life& life = lives_[request];
    actors::NewSequence rest = world_.requests[request].sequence;
    for (uint32_t i = 0; i < life.received; ++i)
      rest.generated.push_back(world_.requests[request].answer[i].id);
    const auto refused = scheduler_->refuse(rest);
    require(!refused, "an answer may not go on: ", refused.value_or(""));
    life = {.state = Life::State::admitted, .admitted_us = now().count(), .received = life.received};
    life.id = scheduler_->admit(std::move(rest), now());
    by_id_.emplace(life.id, request);
  }
  forget_stages();
}

void Simulation::admit_held() {
  while (!held_.empty() && !scheduler_->full()) {
    const size_t request = held_.front();
    held_.pop_front();
    if (lives_[request].state == Life::State::held) admit(request);
  }
}

void Simulation::end(size_t request, Ends how) {
  Life& life = lives_[request];
  if (life.state == Life::State::ended) return;
  if (life.state == Life::State::admitted) {
    scheduler_->cancel(life.id);
    by_id_.erase(life.id);
    for (Owner& owner : owners_)
      if (owner.alive && !owner.canary && owner.request == request) owner.alive = false;
    ++(how == Ends::cancelled ? happened_.cancels : happened_.deadlines);
  }
  life.state = Life::State::ended;
  admit_held();
}

/// A new epoch, for whatever reason: what is in flight never ends, and what all have so far is computed
/// again.
void Simulation::reset() {
  if (random_.chance(takeover_share)) return take_over();
  if (random_.chance(plan_share))
    follow_plan();
  else
    lose_stage();
  require(scheduler_->kv_cache().free() == limits_.kv_blocks - 1, "an epoch begins with blocks taken");
  for (const auto& [id, request] : by_id_) ++lives_[request].epochs;
  forget_stages();
}

/// Another number of stages, of which the smallest has another number of blocks: enough for the largest
/// request.
void Simulation::follow_plan() {
  ++happened_.plans;
  const auto end = scheduler_->begin_epoch(now(), actors::Scheduler::EpochCause::no_request);
  require(end.lost.empty() && end.suspects.empty(), "a new plan is held against requests");
  const uint64_t least = 1 + gpu::kv_blocks_for(limits_.context_tokens);
  limits_.stages = static_cast<uint32_t>(random_.between(1, stages_max));
  limits_.kv_blocks = static_cast<uint32_t>(random_.between(least, world_.limits.kv_blocks + least / 4));
  scheduler_->set_stages(limits_.stages);
  require(scheduler_->set_kv_blocks(limits_.kv_blocks, limits_.kv_tier.places, now()).empty(),
          "what fits another plan is lost by it");
  times_ = ChainTimes(limits_.stages, world_.costs, world_.seed + happened_.plans);
  seen_.assign(limits_.kv_blocks, 0);
  salts_.assign(limits_.kv_blocks, {});
}

void Simulation::lose_stage() {
  ++happened_.resets;
  for (const auto& lost : scheduler_->begin_epoch(now()).lost) {
    Life& life = lives_[by_id_.at(lost.id)];
    require(life.epochs >= world_.limits.replays_max, "a request is lost although it was not often replayed");
    life.state = Life::State::ended;
    by_id_.erase(lost.id);
    ++happened_.lost;
  }
  if (random_.chance(0.5))
    require(scheduler_->set_kv_blocks(limits_.kv_blocks, limits_.kv_tier.places, now()).empty(),
            "what fitted fits no more");
}

void Simulation::forget_stages() {
  happened_.rows += stages_.rows_run();
  stages_ = Stages(limits_);
  in_flight_.clear();
  owners_.assign(owners_.size(), {});
  admit_held();
}

void Simulation::change_cost() {
  const auto kind = random_.between(0, 3);
  actors::StepCost cost;  // not measured
  if (kind == 1) cost = meter_.cost();
  if (kind == 2) cost = {static_cast<float>(world_.costs.fixed_us), 0};
  if (kind == 3)
    cost = {static_cast<float>(random_.between(0, 10'000)), static_cast<float>(random_.between(1, 1'000))};
  scheduler_->set_step_cost(cost,
                            random_.chance(0.5) ? actors::split_gain_min : actors::split_gain_min_apart);
}

// ---- what is checked ----

void Simulation::check_before(const gpu::StepPlan& plan) {
  for (const uint32_t slot : plan.ends) owners_.at(slot).alive = false;
  follow_moves(plan);
  for (const gpu::SeqStart& start : plan.starts) check_start(start, plan);
  check_rows(plan);
}

/// Who wrote what, before who reads it is checked.
void Simulation::follow_moves(const gpu::StepPlan& plan) {
  for (const gpu::BlockMove& move : plan.moves) {
    std::string &block = salts_.at(move.block), &place = place_salts_.at(move.place);
    if (move.way == gpu::BlockMove::Way::load)
      for (uint32_t slot = 0; slot < owners_.size(); ++slot)
        require(!owners_[slot].alive ||
                    std::ranges::find(stages_.slot(slot).table, move.block) == stages_.slot(slot).table.end(),
                "block ", move.block, " is loaded while slot ", slot, " reads it");
    (move.way == gpu::BlockMove::Way::save ? place : block) =
        move.way == gpu::BlockMove::Way::save ? block : place;
  }
}

void Simulation::check_start(const gpu::SeqStart& start, const gpu::StepPlan& plan) {
  Owner& owner = owners_.at(start.slot);
  require(!owner.alive, "slot ", start.slot, " is given away while it is used");
  if (start.sampling.seed == 0) {
    owner = {.alive = true, .canary = true, .known = 1};
    return;
  }
  const size_t request = start.sampling.seed - 1;
  const Request& r = world_.requests.at(request);
  Life& life = lives_[request];
  require(life.state == Life::State::admitted, "a request starts that does not wait");
  for (const Owner& other : owners_)
    require(!other.alive || other.canary || other.request != request, "a request starts twice");
  const auto known = static_cast<int64_t>(r.sequence.prompt.size()) + life.received;
  require(start.prompt_tokens == r.sequence.prompt.size(), "a request starts with another prompt");
  require(start.cached_tokens < known && start.cached_tokens % gpu::kv_block_tokens == 0,
          "a request starts behind ", start.cached_tokens, " of ", known, " tokens");
  owner = {.alive = true, .request = request, .known = known};
  if (life.starts++ == 0) life.cached_tokens = std::min(start.cached_tokens, start.prompt_tokens);
  if (life.starts > 1 && start.sampling.penalized() && !start.history.empty()) ++happened_.penalized_replays;
  if (start.cached_tokens == 0) return;
  ++happened_.prefix_hits;
  if (r.new_group && life.at_once && life.starts == 1) ++happened_.follows;
  bool forks = false;
  for (const gpu::BlockChange& change : plan.block_changes)
    if (change.slot == start.slot && change.index < start.cached_tokens / gpu::kv_block_tokens) {
      require(plant_ == Plant::shared_block || plant_ == Plant::lost_load ||
                  salts_.at(change.block) == r.sequence.salt,
              "a request finds what another salt wrote");
      forks |= scheduler_->kv_cache().holders(change.block) > 1;
    }
  happened_.forks += forks;
}

void Simulation::check_rows(const gpu::StepPlan& plan) const {
  std::optional<actors::SequenceId> oldest;  // of those whose prompt is not read yet
  for (uint32_t slot = 0; slot < owners_.size(); ++slot) {
    const Owner& owner = owners_[slot];
    if (owner.alive && !owner.canary && stages_.slot(slot).started && stages_.slot(slot).length < owner.known)
      oldest = std::min(oldest.value_or(~0ull), lives_[owner.request].id);
  }
  bool goes_on = !oldest;
  for (const gpu::SeqStep& step : plan.sequences) {
    const Owner& owner = owners_.at(step.slot);
    require(owner.alive, "slot ", step.slot, " has rows, but nobody owns it");
    if (owner.canary) continue;
    const actors::NewSequence& s = world_.requests[owner.request].sequence;
    require(step.first_position + step.tokens.size() < s.prompt.size() + s.max_tokens,
            "rows behind the last token of an answer");
    goes_on |= oldest && step.first_position < owner.known && lives_[owner.request].id <= *oldest;
  }
  require(goes_on, "the oldest prompt does not go on");
}

/// Who has which block, by what stages were told and by the cache.
void Simulation::check_blocks(const gpu::StepPlan& plan) {
  if (plant_ == Plant::shared_block) return;
  const actors::KvCache& cache = scheduler_->kv_cache();
  std::ranges::fill(seen_, 0);
  for (uint32_t slot = 0; slot < owners_.size(); ++slot)
    if (owners_[slot].alive)
      for (const uint32_t block : stages_.slot(slot).table) ++seen_[block];
  uint32_t idle = 0;
  for (uint32_t block = 0; block < seen_.size(); ++block) {
    idle += cache.holders(block) == 0;
    require(seen_[block] <= cache.holders(block), "block ", block, " is used by ", seen_[block],
            " and held by ", (cache.holders(block)));
  }
  require(idle == cache.free(), idle, " blocks are held by nobody, ", cache.free(), " are free");
  for (const gpu::SeqStep& step : plan.sequences) {
    const Owner& owner = owners_[step.slot];
    const int64_t first = step.first_position, end = first + static_cast<int64_t>(step.tokens.size());
    for (int64_t i = first / gpu::kv_block_tokens; i < gpu::kv_blocks_for(end); ++i) {
      const uint32_t block = stages_.slot(step.slot).table[static_cast<size_t>(i)];
      require(cache.holders(block) == 1, "block ", block, " is written while others hold it");
      salts_[block] = owner.canary ? "canary" : world_.requests[owner.request].sequence.salt;
    }
  }
}

void Simulation::check_limits() const {
  const actors::SchedulerLimits& l = limits_;
  require(scheduler_->running() <= l.sequences, "too many run");
  require(scheduler_->running() + scheduler_->waiting() <= size_t{l.sequences} + l.queue, "too many wait");
  require(scheduler_->running() + scheduler_->waiting() == by_id_.size(),
          "a request is neither waiting nor running");
  require(scheduler_->in_flight() == in_flight_.size() && in_flight_.size() <= l.steps_in_flight(),
          "too many steps are in flight");
  require(scheduler_->kv_blocks_used() < l.kv_blocks + 1, "more blocks are used than there are");
  require(scheduler_->wait_estimate().count() >= 0, "a wait is shorter than none");
}

void Simulation::check_progress(const actors::Progress& p) {
  if (p.canary) {
    static const int32_t right = Alone({0}, {}).next().id;
    require(p.finish == FinishReason::length && p.tokens.size() == 1 && p.tokens[0].id == right,
            "the canary says something else");
    ++happened_.canaries;
    for (Owner& owner : owners_)
      if (owner.canary) owner = {};
    return;
  }
  const auto found = by_id_.find(p.id);
  require(found != by_id_.end(), "tokens come of a request that ended or never was");
  const size_t request = found->second;
  Life& life = lives_[request];
  const Request& r = world_.requests[request];
  const std::string who = "request " + to_string(r.number);
  require(p.first_index == life.received, who, " gets token ", p.first_index, " behind ", life.received);
  require(p.tokens.size() <= r.sequence.drafts + 1, who, " gets more tokens than were asked for");
  for (const gpu::SampledToken& token : p.tokens) {
    require(life.received < r.answer.size(), who, " gets more tokens than alone");
    const gpu::SampledToken& right = r.answer[life.received];
    require(token.fault == gpu::RowFault::none && token.id == right.id && token.logprob == right.logprob, who,
            " gets ", token.id, " as token ", life.received, ", alone ", right.id);
    ++life.received;
  }
  if (p.finish == FinishReason::none) {
    require(!p.tokens.empty(), who, " got a step, but no token");
    require(life.received < r.answer.size(), who, " does not end where it ends alone");
    return;
  }
  require(p.finish == r.finish, who, " ends otherwise than alone");
  if (p.finish == FinishReason::failed)
    require(p.tokens.empty() && p.fault == r.answer.back().fault &&
                life.received + r.sequence.drafts + 1 >= r.answer.size(),
            who, " does not fail where it fails alone");
  else
    require(life.received == r.answer.size(), who, " ends too early");
  const actors::SequenceTimes& t = p.facts.times;
  require((t.queued + t.prefill + t.decode + t.preempted).count() == now().count() - life.admitted_us, who,
          " does not know where its time went");
  require(p.facts.cached_tokens == life.cached_tokens, who, " found another number of tokens than it says");
  require(p.facts.preemptions <= preemptions_max, who,
          " is preempted again and again: ", p.facts.preemptions);
  // In a new epoch it may start twice: alone, and then beside others.
  require(p.facts.preemptions + 1 + 2 * life.epochs >= life.starts, who,
          " was preempted more often than it says");
  require(p.facts.replays <= std::min(life.epochs, world_.limits.replays_max), who,
          " was replayed too often");
  happened_.replays += p.facts.replays;
  ++(p.finish == FinishReason::stop     ? happened_.stops
     : p.finish == FinishReason::length ? happened_.lengths
                                        : happened_.faults);
  by_id_.erase(found);
  life.state = Life::State::ended;
  for (Owner& owner : owners_)
    if (owner.alive && !owner.canary && owner.request == request) owner.alive = false;
}

void Simulation::check_end() const {
  for (const Life& life : lives_) require(life.state == Life::State::ended, "a request never ended");
  require(scheduler_->running() == 0 && scheduler_->waiting() == 0, "somebody runs behind the end");
  const uint32_t free = scheduler_->kv_cache().free(),
                 all = limits_.kv_blocks - 1;  // one is the canary's
  require(free == all, all - free, " blocks are lost");
  require(scheduler_->kv_blocks_used() == 0, "blocks are used by nobody");
  require(scheduler_->micro_batches_in_flight() == 0, "micro-batches fly behind the end");
}

// ---- mistakes on purpose ----

/// A lost block is lost once; the others happen again until one hurts: whom they hit may end before.
void Simulation::plant(gpu::StepPlan& plan) {
  if (plant_ == Plant::none || (plant_ != Plant::lost_load && happened_.steps % plant_every != 0)) return;
  auto& cache = const_cast<actors::KvCache&>(scheduler_->kv_cache());
  const auto hurts = [this](uint32_t slot) {
    const Owner& owner = owners_[slot];
    return owner.alive && !owner.canary && world_.requests[owner.request].ends == Ends::by_itself;
  };
  switch (plant_) {
    case Plant::none:
      return;
    case Plant::leaked_block:
      if (!planted_ && cache.free() > 0) cache.take(), planted_ = true;
      return;
    case Plant::freed_block:
      for (uint32_t slot = 0; slot < owners_.size() && !planted_; ++slot)
        if (hurts(slot) && std::ranges::find(plan.ends, slot) == plan.ends.end())
          cache.release(stages_.slot(slot).table.back()), planted_ = true;
      return;
    case Plant::shared_block:
      for (gpu::BlockChange& change : plan.block_changes)
        for (uint32_t slot = 0; slot < owners_.size(); ++slot)
          if (hurts(slot) && slot != change.slot) change.block = stages_.slot(slot).table.back();
      return;
    case Plant::lost_load:
      if (plan.sequences.empty()) return;
      std::erase_if(plan.moves, [](const gpu::BlockMove& m) { return m.way == gpu::BlockMove::Way::load; });
      return;
    case Plant::skipped_token: {
      uint64_t row = stages_.rows_run();
      for (const gpu::SeqStep& step : plan.sequences) {
        if (hurts(step.slot)) stages_.skipped_row = row;
        row += step.tokens.size();
      }
    }
  }
}

}  // namespace sim
