// Scheduler: which rows the next step has.

#include <algorithm>
#include <cassert>
#include <utility>

#include "actors/schedule/scheduler.hpp"
#include "gpu/sampler.hpp"

namespace convoy::actors {

namespace {

/// Of prompts beside decodes, however long that makes a step: below, reading the weights for them is wasted.
constexpr uint32_t prefill_min = 16;

}  // namespace

std::optional<gpu::StepPlan> Scheduler::plan(Micros now) {
  if (in_flight_.size() >= steps_wanted()) return std::nullopt;
  now_ = now;
  wake_followers();  // whose blocks were more than one step loads
  help_short_one();
  start_waiting();
  gpu::StepPlan plan;
  plan.step = next_step_;
  FlyingStep flying{.step = next_step_, .planned_at = now};
  plan.sequences.reserve(decoding_);
  flying.sequences.reserve(decoding_);
  add_decodes(plan, flying);
  wake_followers();  // whom preempted ones leave
  add_prefill(plan, flying);
  add_moves(plan);
  if (plan.sequences.empty() && plan.moves.empty()) return std::nullopt;
  // A slot that ends in this step is free for the next one.
  plan.ends = std::exchange(ended_slots_, {});
  free_slots_.insert(free_slots_.end(), plan.ends.begin(), plan.ends.end());
  ++next_step_;
  sampling_in_flight_ += flying.samples;
  in_flight_.push_back(std::move(flying));
  return plan;
}

/// How many may be in flight.
size_t Scheduler::steps_wanted() const {
  if (!alone_.empty()) return 1;
  return std::max<size_t>(limits_.stages, batches_wanted()) + limits_.slack;
}

size_t Scheduler::batches_wanted() const {
  return micro_batches(decoding_, limits_.stages, cost_, gain_min_);
}

/// The decodes of the next step: those whose token is known, those of the oldest micro-batch in flight ahead
/// of their tokens, or both together.
void Scheduler::add_decodes(gpu::StepPlan& plan, FlyingStep& flying) {
  if (decoding_ == 0) return;
  const size_t batches = batches_wanted();
  const size_t each = (decoding_ + batches - 1) / batches;

  const size_t in_flight = micro_batches_in_flight();
  const auto oldest = std::find_if(in_flight_.begin(), in_flight_.end(), [this](const FlyingStep& step) {
    return std::any_of(step.sequences.begin(), step.sequences.end(),
                       [this](const FlyingRows& rows) { return goes_on_ahead(rows) != nullptr; });
  });
  // A step that waits for tokens holds up what is planned behind it, unless they are there when its turn
  // comes: when it is P steps behind the one that samples them.
  const bool prefill = !prefilling_.empty() || (canary_ && canary_->state == State::prefilling);
  const bool may_wait = in_flight_.end() - oldest >= static_cast<ptrdiff_t>(limits_.stages) || !prefill;
  if (in_flight < batches && !ready_.empty()) {  // one more micro-batch fills the stages
    add_ready(each, plan, flying);
  } else if (in_flight <= batches && may_wait) {
    if (oldest != in_flight_.end()) add_ahead(*oldest, each, plan, flying);
    add_ready(each - std::min(each, plan.sequences.size()), plan, flying);
  } else if (prefill) {
    add_ready(each, plan, flying);  // beside rows that run anyway
  }
}

/// A block for the one that was left out, before the step runs those that would have to be preempted for it.
void Scheduler::help_short_one() {
  const auto found = sequences_.find(std::exchange(short_, 0));
  if (found != sequences_.end() && found->second.state == State::ready)
    grow(found->second, found->second.planned + 1);
}

/// At most so many decodes whose token is known, those first that have waited longest.
void Scheduler::add_ready(size_t most, gpu::StepPlan& plan, FlyingStep& flying) {
  Ready left;
  while (most > 0 && !ready_.empty()) {
    Sequence& s = ready_.front();
    const Grown grown = add_decode(s, plan, flying);
    most -= grown == Grown::yes;
    if (grown == Grown::later) left.splice(left.end(), ready_, ready_.iterator_to(s));
  }
  ready_.splice(ready_.begin(), left);
}

/// At most so many of the sequences that this step samples, to go on with what it samples.
void Scheduler::add_ahead(const FlyingStep& step, size_t most, gpu::StepPlan& plan, FlyingStep& flying) {
  for (const FlyingRows& rows : step.sequences) {
    if (most == 0) return;
    if (Sequence* const s = goes_on_ahead(rows)) most -= add_decode(*s, plan, flying) == Grown::yes;
  }
}

/// Whose rows these are, if its next token may be planned although the last one is still being computed: one
/// ahead, and not beyond the answer's end. Who guesses has to know what follows.
Scheduler::Sequence* Scheduler::goes_on_ahead(const FlyingRows& rows) const {
  Sequence* const s = rows.sampled > 0 ? living(rows.slot, rows.life) : nullptr;
  const bool may = s && s->in_flight == 1 && !s->lookup && s->planned - s->prompt_tokens + 1 < s->max_tokens;
  return may ? s : nullptr;
}

/// Its next token, and what is guessed to follow, if there are blocks for them.
Scheduler::Grown Scheduler::add_decode(Sequence& s, gpu::StepPlan& plan, FlyingStep& flying) {
  if (s.lookup) {
    const auto generated = static_cast<uint32_t>(s.tokens.size()) - s.prompt_tokens;
    const auto places = static_cast<uint32_t>(s.blocks.size() * gpu::kv_block_tokens);
    const auto known = static_cast<uint32_t>(s.tokens.size());
    const uint32_t most = std::min({s.lookup->worth(flying.rows + 1, cost_), s.max_tokens - generated - 1,
                                    places - std::min(places, known), drafts_max() - flying.drafts});
    s.drafts = s.lookup->guess(s.tokens, most);
  }
  const auto count = 1 + static_cast<uint32_t>(s.drafts.size());
  if (const Grown grown = grow(s, s.planned + count); grown != Grown::yes) {
    s.drafts.clear();
    if (grown == Grown::later && s.state == State::ready && short_ == 0) short_ = s.id;
    return grown;
  }
  flying.drafts += count - 1;
  counters_.drafted_tokens += count - 1;
  add_rows(s, count, plan, flying);
  return Grown::yes;
}

/// Guesses of one step share its room with prompts, which they leave half of it.
uint32_t Scheduler::drafts_max() const {
  return prefilling_.empty() ? limits_.prefill_tokens : limits_.prefill_tokens / 2;
}

/// Chunks of prompts: of the tenant that was served least the shortest rest, share by share; but the oldest
/// prompt always gets one.
void Scheduler::add_prefill(gpu::StepPlan& plan, FlyingStep& flying) {
  if (canary_ && canary_->state == State::prefilling) add_rows(*canary_, 1, plan, flying);
  if (prefilling_.empty()) return;
  uint32_t budget = prefill_budget(flying);
  const uint32_t share = std::max<uint32_t>(1, budget / limits_.prefill_share);
  for (Sequence* s = &sequences_.at(*prefilling_.begin()); budget > 0;) {
    if (brings(*s) > 0 && flying.history > 0 && flying.history + brings(*s) > history_tokens_max) break;
    const uint32_t count = std::min({share, budget, owed(*s)});
    add_rows(*s, count, plan, flying);
    budget -= count;
    Tenant* const next = tenants_.next_prefilling();
    if (!next) break;
    s = &sequences_.at(next->prefilling.begin()->second);
  }
}

/// All that was decided: its rows may read what is loaded, and write what is saved.
void Scheduler::add_moves(gpu::StepPlan& plan) {
  if (!plan.sequences.empty()) cache_->save_ahead();
  plan.moves = cache_->take_moves();
  for (const gpu::BlockMove& move : plan.moves)
    ++(move.way == gpu::BlockMove::Way::save ? counters_.saved_blocks : counters_.loaded_blocks);
}

/// Tokens that its start brings along.
uint32_t Scheduler::brings(const Sequence& s) const {
  return !s.begun && gpu::needs_history(s.sampling) ? s.planned : 0;
}

/// How many rows of prompts the step has, beside those of decodes.
uint32_t Scheduler::prefill_budget(const FlyingStep& flying) const {
  const uint32_t most = limits_.prefill_tokens - flying.drafts;
  if (cost_.per_row_us <= 0) return most;
  uint64_t tokens = backlog_;
  for (const FlyingStep& step : in_flight_) tokens += step.prompt_rows;
  const size_t rows =
      decoding_ == 0 ? chunk_rows(tokens, limits_.stages, cost_) : rows_beside_decodes(tokens, flying.rows);
  return static_cast<uint32_t>(std::min<size_t>(most, std::max<size_t>(prefill_min, rows)));
}

/// Of so many tokens of prompts. Decodes wait for a step without them as they do for one that has some.
size_t Scheduler::rows_beside_decodes(uint64_t tokens, size_t decodes) const {
  const float step_us = cost_.of(std::max(decodes, decoding_ / batches_wanted()));
  const float more_us = limits_.prefill_stretch * step_us - cost_.of(decodes);
  const auto even = static_cast<float>(tokens / steps_to_read_in(limits_.stages));
  return static_cast<size_t>(std::min(more_us / cost_.per_row_us, even));
}

/// Gives the step so many more rows of a sequence, which has blocks for them.
void Scheduler::add_rows(Sequence& s, uint32_t count, gpu::StepPlan& plan, FlyingStep& flying) {
  const bool decode = decodes(s.state);
  size_t first_new_block = gpu::kv_blocks_for(size_t{s.planned});
  if (!s.begun) {
    plan.starts.push_back({s.slot, s.prompt_tokens, s.sampling, s.planned, {}});
    plan.starts.back().history.assign(s.tokens.begin(), s.tokens.begin() + brings(s));
    flying.history += brings(s);
    first_new_block = 0;
    s.begun = true;
    begin_facts(s);
  }
  const uint32_t end = s.planned + count;
  for (size_t i = first_new_block; i < gpu::kv_blocks_for(size_t{end}); ++i)
    plan.block_changes.push_back({s.slot, static_cast<uint32_t>(i), s.blocks[i]});

  if (s.newest_step != next_step_ + 1) {
    s.newest_step = next_step_ + 1;
    s.in_step = plan.sequences.size();
    plan.sequences.push_back({s.slot, s.planned, {}, 0});
    flying.sequences.push_back({.life = s.life, .slot = s.slot});
  }
  gpu::SeqStep& step = plan.sequences[s.in_step];
  FlyingRows& rows = flying.sequences[s.in_step];
  if (s.state == State::flying) {
    step.tokens = {gpu::token_fed_back};
  } else {
    const auto known = s.tokens.begin() + s.planned;
    step.tokens.append(known, known + static_cast<ptrdiff_t>(count - s.drafts.size()));
    step.tokens.append(s.drafts.begin(), s.drafts.end());
  }
  rows.end = end;
  if (end >= s.tokens.size()) {
    step.sampled_rows = rows.sampled = decode ? count : 1;
    flying.samples = true;
  }

  if (!s.canary) {
    flying.rows += count;
    if (!decode) flying.prompt_rows += count, backlog_ -= count;
    tenants_.charge(*s.tenant, decode ? decode_weight * count : count);
    if (!decode) unlist(s);
  }
  s.planned = end;
  if (!s.canary && !decode) list(s);
  if (rows.sampled > 0) {
    ++s.in_flight;
    if (s.state != State::flying) enter(s, State::flying);
  }
}

/// The first rows of its life are planned.
void Scheduler::begin_facts(Sequence& s) {
  if (s.canary) return;
  if (!std::exchange(s.ever_begun, true)) s.facts.cached_tokens = std::min(s.planned, s.prompt_tokens);
  counters_.prompt_tokens += s.tokens.size();
  counters_.cached_tokens += s.planned;
}

}  // namespace convoy::actors
