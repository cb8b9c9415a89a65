#include "actors/schedule/scheduler.hpp"

#include <algorithm>
#include <cassert>

#include "gpu/sampler.hpp"

namespace convoy::actors {

namespace {

/// What a sequence may grow to. The last sampled token is never fed back, so it needs no place.
uint64_t blocks_of(uint64_t prompt_tokens, uint64_t max_tokens) {
  return gpu::kv_blocks_for(prompt_tokens + max_tokens - 1);
}

}  // namespace

Scheduler::Scheduler(SchedulerLimits limits, std::string secret)
    : limits_(limits), block_keys_(std::move(secret)) {
  forget_stages();
}

/// Blocks, slots and steps are as if none had ever been used. No sequence lives.
void Scheduler::forget_stages() {
  assert(running_ == 0 && !canary_);
  pending_.clear();
  woken_.clear();
  in_flight_.clear();
  sampling_in_flight_ = 0;
  ended_slots_.clear();
  free_slots_.clear();
  // Taken from the back: low numbers first.
  for (uint32_t s = limits_.slots(); s-- > 0;) free_slots_.push_back(s);
  by_slot_.assign(limits_.slots(), nullptr);
  cache_.emplace(limits_.kv_blocks, limits_.kv_tier);
  if (limits_.kv_blocks > 0) canary_block_ = cache_->take();
  canary_wanted_ = false;
  short_ = 0;
  next_step_ = 0;
}

Scheduler::EpochEnd Scheduler::begin_epoch(Micros now, EpochCause cause) {
  now_ = now;
  std::set<SequenceId> suspects;
  const bool by_loss = cause == EpochCause::maybe_a_request;
  for (const FlyingStep& step : in_flight_)
    for (const FlyingRows& rows : step.sequences)
      if (const Sequence* const s = living(rows.slot, rows.life); by_loss && s && !s->canary)
        suspects.insert(s->id);
  if (canary_) erase(*canary_);
  while (!victims_.empty()) requeue(sequences_.at(~victims_.begin()->second));
  forget_stages();
  lacks_blocks_ = false;
  if (!suspects.empty()) alone_.clear();  // of those who waited for their turn nobody was why
  EpochEnd end;
  for (const SequenceId id : suspects) {
    Sequence& s = sequences_.at(id);
    if (++s.facts.replays > limits_.replays_max) {
      end.lost.push_back({id, "it ran whenever a stage was lost, " + std::to_string(s.facts.replays) +
                                  " times (pipeline.replays_max)"});
      erase(s);
    } else {
      end.suspects.push_back(id);
      if (s.facts.replays > 1) alone_.insert(id);
    }
  }
  return end;
}

void Scheduler::set_stages(uint32_t stages) {
  assert(stages > 0 && next_step_ == 0);
  limits_.stages = stages;
}

std::vector<Scheduler::Lost> Scheduler::set_kv_blocks(uint32_t blocks, uint32_t places, Micros now) {
  assert(next_step_ == 0);
  now_ = now;
  limits_.kv_blocks = blocks;
  limits_.kv_tier.places = places;
  while (!victims_.empty()) requeue(sequences_.at(~victims_.begin()->second));
  forget_stages();
  std::vector<Lost> lost;
  for (const auto& [id, s] : sequences_)
    if (auto why = refuse_size(s.prompt_tokens, s.max_tokens)) lost.push_back({id, std::move(*why)});
  for (const Lost& l : lost) erase(sequences_.at(l.id));
  return lost;
}

uint32_t Scheduler::kv_blocks_used() const {
  // The canary's block counts while it is used.
  return limits_.kv_blocks == 0 ? 0 : limits_.kv_blocks - cache_->free() - (canary_ ? 0 : 1);
}

std::optional<std::string> Scheduler::refuse(const NewSequence& sequence) const {
  if (sequence.prompt.empty()) return "the prompt has no tokens";
  if (sequence.max_tokens == 0) return "max_tokens is 0";
  if (sequence.priority >= priorities)
    return "priority " + std::to_string(sequence.priority) + " is above " + std::to_string(priorities - 1);
  for (const auto* tokens : {&sequence.prompt, &sequence.generated})
    for (const int32_t id : *tokens)
      if (id < 0 || id >= limits_.vocab)
        return "token id " + std::to_string(id) + " is outside the vocabulary of " +
               std::to_string(limits_.vocab);
  if (auto why = refuse_generated(sequence)) return why;
  if (auto why = gpu::refuse_sampling(sequence.sampling, limits_.vocab)) return why;
  const uint64_t tokens = sequence.prompt.size() + uint64_t{sequence.max_tokens};
  if (tokens > static_cast<uint64_t>(limits_.context_tokens))
    return "prompt (" + std::to_string(sequence.prompt.size()) + " tokens) and max_tokens (" +
           std::to_string(sequence.max_tokens) + ") exceed the context of " +
           std::to_string(limits_.context_tokens);
  return refuse_size(sequence.prompt.size(), sequence.max_tokens);
}

/// Why an answer cannot go on behind what it has.
std::optional<std::string> Scheduler::refuse_generated(const NewSequence& sequence) {
  const auto& generated = sequence.generated;
  if (generated.size() >= sequence.max_tokens)
    return "the answer has its " + std::to_string(sequence.max_tokens) + " tokens already (generated)";
  const auto& ends = sequence.sampling.end_tokens;
  if (std::ranges::find_first_of(generated, ends) != generated.end())
    return "the answer has its end token already (generated)";
  return std::nullopt;
}

/// Why so many tokens never fit, if the stages have said how many blocks there are.
std::optional<std::string> Scheduler::refuse_size(uint64_t prompt_tokens, uint64_t max_tokens) const {
  const uint64_t blocks = blocks_of(prompt_tokens, max_tokens);
  if (limits_.kv_blocks > 0 && blocks + 1 > limits_.kv_blocks)  // one is the canary's
    return "prompt and max_tokens need " + std::to_string(blocks) + " KV blocks; the pipeline has " +
           std::to_string(limits_.kv_blocks - 1) + " (pipeline.kv_tokens)";
  return std::nullopt;
}

bool Scheduler::full() const { return running_ + waiting_ >= size_t{limits_.sequences} + limits_.queue; }

Scheduler::Micros Scheduler::wait_estimate() const {
  const size_t places = lacks_blocks_ ? 0 : limits_.sequences - running_;
  return load_.wait(waiting_, places, backlog_);
}

SequenceId Scheduler::admit(NewSequence sequence, Micros now) {
  assert(!refuse(sequence));
  now_ = now;
  const SequenceId id = next_id_++;
  Sequence& s = sequences_[id];
  s.id = id;
  s.tenant = &tenants_.of(sequence.tenant);
  s.priority = sequence.priority;
  s.prompt_tokens = static_cast<uint32_t>(sequence.prompt.size());
  s.tokens = std::move(sequence.prompt);
  s.tokens.insert(s.tokens.end(), sequence.generated.begin(), sequence.generated.end());
  s.max_tokens = sequence.max_tokens;
  s.sampling = std::move(sequence.sampling);
  s.keys = {block_keys_.root(sequence.salt)};
  if (sequence.drafts > 0) s.lookup.emplace(sequence.drafts);
  s.since = now;
  ++waiting_;
  backlog_ += owed(s);
  tenants_.wait(*s.tenant, id, s.priority);
  start_waiting();
  return id;
}

void Scheduler::cancel(SequenceId id) {
  const auto found = sequences_.find(id);
  if (found == sequences_.end()) return;
  erase(found->second);
  wake_followers();
}

/// Whose life it is, if it goes on.
Scheduler::Sequence* Scheduler::living(uint32_t slot, uint64_t life) const {
  Sequence* const s = by_slot_[slot];
  return s && s->life == life ? s : nullptr;
}

// ---- starting ----

void Scheduler::start_waiting() {
  start_canary();
  lacks_blocks_ = false;
  if (!alone_.empty()) return start_alone();
  if (!somebody_may_start()) {
    lacks_blocks_ = waiting_ > 0 && running_ < limits_.sequences;
    return;
  }
  // Whoever's turn it is is not overtaken, or who needs much room might never start: nor by one that made
  // room for it.
  for (auto next = tenants_.next_waiting(); next.tenant; next = tenants_.next_waiting()) {
    Sequence& s = sequences_.at(next.id);
    while (!start(s))
      // Slots come back with the next step, whoever is preempted.
      if (free_slots_.empty() || !make_room_for(s)) {
        lacks_blocks_ = !free_slots_.empty() && running_ < limits_.sequences;
        return;
      }
  }
}

/// Nobody else lives while some have to run alone, so there is room.
void Scheduler::start_alone() {
  Sequence& s = sequences_.at(*alone_.begin());
  if (s.state == State::waiting && !free_slots_.empty() && limits_.kv_blocks > 0) {
    const bool started = start(s);
    assert(started);
  }
}

/// Cheaper than asking whose turn it is, which costs something for each tenant that was served since.
bool Scheduler::somebody_may_start() const {
  if (waiting_ == 0) return false;
  if (running_ < limits_.sequences && cache_->free() >= running_) return true;
  return running_ > 0 &&
         (tenants_.waiting_above(victims_.begin()->first) || tenants_.largest()->running.size() > share());
}

/// How many of those that run may be one tenant's.
size_t Scheduler::share() const { return std::max<size_t>(1, running_ / tenants_.active()); }

void Scheduler::start_canary() {
  if (!canary_wanted_ || canary_ || free_slots_.empty() || limits_.kv_blocks == 0) return;
  canary_wanted_ = false;
  Sequence& s = sequences_[next_id_];
  s.id = next_id_++;
  s.canary = true;
  s.tokens = {0};
  s.prompt_tokens = s.max_tokens = 1;
  s.blocks = {canary_block_};
  s.slot = free_slots_.back();
  free_slots_.pop_back();
  s.life = next_life_++;
  by_slot_[s.slot] = &s;
  s.state = State::prefilling;
  canary_ = &s;
}

/// Begins its life, if there is room for it.
bool Scheduler::start(Sequence& s) {
  if (running_ >= limits_.sequences || free_slots_.empty() || !take_blocks(s)) return false;
  s.slot = free_slots_.back();
  free_slots_.pop_back();
  s.life = next_life_++;
  by_slot_[s.slot] = &s;
  ++running_;
  --waiting_;
  tenants_.run(*s.tenant, s.id);
  tenants_.unwait(*s.tenant, s.id, s.priority);
  victims_.emplace(s.priority, ~s.id);
  follow_or_announce(s);
  return true;
}

/// Preempts one that has to stand back for it: the youngest of the lowest priority, if that is lower; or the
/// youngest of the tenant that runs most, if that is more than its share, the other's tenant has less than
/// its own, and was not served more: or its place would be taken back as soon as it is the victim's turn.
bool Scheduler::make_room_for(const Sequence& s) {
  if (running_ == 0) return false;
  const auto [priority, age] = *victims_.begin();
  if (priority < s.priority) {
    preempt(sequences_.at(~age));
    return true;
  }
  const Tenant* const largest = tenants_.largest();
  if (s.tenant->running.size() >= share() || largest->running.size() <= share() ||
      largest->served < s.tenant->served)
    return false;
  Sequence& victim = sequences_.at(*largest->running.rbegin());
  if (victim.priority > s.priority) return false;
  preempt(victim);
  return true;
}

// ---- states ----

/// What no step has yet of a prompt, or of tokens that are computed again.
uint32_t Scheduler::owed(const Sequence& s) const {
  return s.canary || decodes(s.state) ? 0 : static_cast<uint32_t>(s.tokens.size()) - s.planned;
}

void Scheduler::list(Sequence& s) {
  s.listed = static_cast<uint32_t>(s.tokens.size()) - s.planned;
  tenants_.prefill(*s.tenant, s.listed, s.id);
}

void Scheduler::unlist(Sequence& s) { tenants_.unprefill(*s.tenant, s.listed, s.id); }

void Scheduler::enter(Sequence& s, State state) {
  if (s.canary) {
    s.state = state;
    return;
  }
  count_time(s);
  backlog_ -= owed(s);
  if (s.state == State::prefilling) unlist(s), prefilling_.erase(s.id);
  if (s.state == State::ready) ready_.erase(ready_.iterator_to(s));
  decoding_ -= decodes(s.state);
  s.state = state;
  decoding_ += decodes(s.state);
  if (s.state == State::ready) ready_.push_back(s);
  if (s.state == State::prefilling) list(s), prefilling_.insert(s.id);
  backlog_ += owed(s);
}

void Scheduler::count_time(Sequence& s) {
  SequenceTimes& times = s.facts.times;
  const bool replayed = s.facts.preemptions + s.facts.replays > 0 && !decodes(s.state);
  auto& part = replayed                    ? times.preempted
               : s.state == State::waiting ? times.queued
               : decodes(s.state)          ? times.decode
                                           : times.prefill;
  part += now_ - s.since;
  s.since = now_;
}

// ---- ending ----

/// Frees what a sequence that lives holds. It is as one that waits then, but nowhere listed.
void Scheduler::end_life(Sequence& s) {
  retract(s);
  // Stages run steps in order: whoever gets these blocks next writes them after the last step that used
  // them.
  if (!s.canary)
    for (size_t i = s.blocks.size(); i-- > 0;) cache_->release(s.blocks[i]);
  s.blocks.clear();
  by_slot_[s.slot] = nullptr;
  if (s.begun)
    ended_slots_.push_back(s.slot);
  else
    free_slots_.push_back(s.slot);  // no stage has heard of it yet
  backlog_ -= owed(s);
  s.planned = s.published = s.in_flight = s.announced = 0;
  s.newest_step = 0;
  s.begun = false;
  s.drafts.clear();
  backlog_ += owed(s);
  s.life = 0;
  if (s.canary) {
    canary_ = nullptr;
    return;
  }
  enter(s, State::waiting);
  victims_.erase({s.priority, ~s.id});
  --running_;
}

/// It lives again when there is room. What is in flight for it is ignored: its tokens come again.
void Scheduler::requeue(Sequence& s) {
  end_life(s);
  tenants_.wait(*s.tenant, s.id, s.priority);
  tenants_.end(*s.tenant, s.id);
  ++waiting_;
}

void Scheduler::preempt(Sequence& s) {
  requeue(s);
  ++s.facts.preemptions;
  ++counters_.preemptions;
}

void Scheduler::erase(Sequence& s) {
  if (s.life > 0) {
    end_life(s);
    if (!s.canary) tenants_.end(*s.tenant, s.id);
  } else {
    tenants_.unwait(*s.tenant, s.id, s.priority);
    --waiting_;
  }
  backlog_ -= owed(s);
  alone_.erase(s.id);
  sequences_.erase(s.id);
}

}  // namespace convoy::actors
