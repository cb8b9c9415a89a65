#include "actors/scheduler.hpp"

#include <algorithm>
#include <cassert>
#include <stdexcept>

#include "gpu/sampler.hpp"

namespace convoy::actors {

namespace {

/// What a sequence may grow to. The last sampled token is never fed back, so it needs no place.
uint32_t blocks_of(const NewSequence& sequence) {
  return static_cast<uint32_t>(
      gpu::kv_blocks_for(uint64_t{sequence.prompt.size()} + uint64_t{sequence.max_tokens} - 1));
}

/// Of the newest step in rows_per_step(): the last twenty or so count.
constexpr float newest_weight = 0.05f;

}  // namespace

Scheduler::Scheduler(SchedulerLimits limits) : limits_(limits) { reset(); }

void Scheduler::reset() {
  sequences_.clear();
  prefilling_.clear();
  known_.clear();
  waiting_.clear();
  in_flight_.clear();
  ended_slots_.clear();
  free_blocks_.clear();
  free_slots_.clear();
  // Taken from the back: low numbers first.
  for (uint32_t b = limits_.kv_blocks; b-- > 0;) free_blocks_.push_back(b);
  for (uint32_t s = limits_.slots(); s-- > 0;) free_slots_.push_back(s);
  next_step_ = 0;
  reserved_ = 0;
  running_ = 0;
  last_decoded_ = 0;
  canary_wanted_ = canary_running_ = false;
}

void Scheduler::set_kv_blocks(uint32_t blocks) {
  limits_.kv_blocks = blocks;
  reset();
}

size_t Scheduler::micro_batches_in_flight() const {
  return static_cast<size_t>(
      std::ranges::count_if(in_flight_, [](const FlyingStep& step) { return !step.sampled.empty(); }));
}

std::optional<std::string> Scheduler::refuse(const NewSequence& sequence) const {
  if (sequence.prompt.empty()) return "the prompt has no tokens";
  if (sequence.max_tokens == 0) return "max_tokens is 0";
  for (const int32_t id : sequence.prompt)
    if (id < 0 || id >= limits_.vocab)
      return "token id " + std::to_string(id) + " is outside the vocabulary of " +
             std::to_string(limits_.vocab);
  if (auto why = gpu::refuse_sampling(sequence.sampling, limits_.vocab)) return why;
  const uint64_t tokens = sequence.prompt.size() + uint64_t{sequence.max_tokens};
  if (tokens > static_cast<uint64_t>(limits_.context_tokens))
    return "prompt (" + std::to_string(sequence.prompt.size()) + " tokens) and max_tokens (" +
           std::to_string(sequence.max_tokens) + ") exceed the context of " +
           std::to_string(limits_.context_tokens);
  if (const uint32_t blocks = blocks_of(sequence); blocks + 1 > limits_.kv_blocks)  // one is the canary's
    return "prompt and max_tokens need " + std::to_string(blocks) + " KV blocks; the pipeline has " +
           std::to_string(limits_.kv_blocks - 1) + " (pipeline.kv_tokens)";
  return std::nullopt;
}

bool Scheduler::queue_full(const NewSequence& sequence) const {
  Sequence s;
  s.reserved_blocks = blocks_of(sequence);
  return waiting_.size() >= limits_.queue && !(waiting_.empty() && fits(s));
}

SequenceId Scheduler::admit(NewSequence sequence) {
  assert(!refuse(sequence));
  const SequenceId id = next_id_++;
  Sequence s;
  s.reserved_blocks = blocks_of(sequence);
  s.prompt_tokens = static_cast<uint32_t>(sequence.prompt.size());
  s.tokens = std::move(sequence.prompt);
  s.max_tokens = sequence.max_tokens;
  s.sampling = std::move(sequence.sampling);
  sequences_.emplace(id, std::move(s));
  waiting_.push_back(id);
  start_waiting();
  return id;
}

void Scheduler::cancel(SequenceId id) {
  const auto found = sequences_.find(id);
  if (found == sequences_.end()) return;
  std::erase(waiting_, id);
  release(found);
}

void Scheduler::release(std::map<SequenceId, Sequence>::iterator sequence) {
  Sequence& s = sequence->second;
  if (s.started) {
    // Stages run steps in order: whoever gets these blocks next writes them after the last step that used
    // them.
    free_blocks_.insert(free_blocks_.end(), s.blocks.rbegin(), s.blocks.rend());
    if (s.planned > 0)
      ended_slots_.push_back(s.slot);
    else
      free_slots_.push_back(s.slot);  // no stage has heard of it yet
    reserved_ -= s.reserved_blocks;
    if (s.canary)
      canary_running_ = false;
    else
      --running_;
  }
  prefilling_.erase(sequence->first);
  known_.erase(sequence->first);
  sequences_.erase(sequence);
}

/// Whether one more may run.
bool Scheduler::fits(const Sequence& sequence) const {
  return running_ < limits_.sequences && reserved_ + sequence.reserved_blocks + 1 <= limits_.kv_blocks;
}

void Scheduler::start_waiting() {
  if (canary_wanted_ && !canary_running_ && !free_slots_.empty()) {
    canary_wanted_ = false;
    canary_running_ = true;
    Sequence s;
    s.tokens = {0};
    s.prompt_tokens = s.max_tokens = 1;
    s.canary = s.started = true;
    s.slot = free_slots_.back();
    free_slots_.pop_back();
    prefilling_.insert(next_id_);
    sequences_.emplace(next_id_++, std::move(s));
  }
  // First come, first served: a long request at the head is not overtaken, or it might never start. Growth up
  // to max_tokens is reserved now, so a running sequence never lacks a block. One block is the canary's.
  while (!waiting_.empty() && !free_slots_.empty()) {
    Sequence& s = sequences_.at(waiting_.front());
    if (!fits(s)) break;
    s.started = true;
    s.slot = free_slots_.back();
    free_slots_.pop_back();
    reserved_ += s.reserved_blocks;
    ++running_;
    prefilling_.insert(waiting_.front());
    waiting_.pop_front();
  }
}

void Scheduler::add_rows(SequenceId id, Sequence& s, uint32_t count, gpu::StepPlan& plan,
                         FlyingStep& flying) {
  if (s.planned == 0) plan.starts.push_back({s.slot, s.prompt_tokens, s.sampling});
  const uint32_t end = s.planned + count;
  while (s.blocks.size() < gpu::kv_blocks_for(size_t{end})) {
    assert(!free_blocks_.empty());
    plan.block_changes.push_back({s.slot, static_cast<uint32_t>(s.blocks.size()), free_blocks_.back()});
    s.blocks.push_back(free_blocks_.back());
    free_blocks_.pop_back();
  }
  gpu::SeqStep step{s.slot, s.planned, {}, 0};
  if (s.planned == s.tokens.size())
    step.tokens = {gpu::token_fed_back};
  else
    step.tokens.assign(s.tokens.begin() + s.planned, s.tokens.begin() + end);
  if (end >= s.tokens.size()) {
    step.sampled_rows = 1;
    ++s.in_flight;
    prefilling_.erase(id);
    known_.erase(id);
    flying.sampled.push_back({id, s.slot, 1});
  }
  s.planned = end;
  if (!s.canary) flying.rows += count;
  plan.sequences.push_back(std::move(step));
}

/// Whether its next token may be planned although the last one is still being computed: one ahead, and not
/// beyond the answer's end.
bool Scheduler::goes_on_ahead(SequenceId id) const {
  const auto found = sequences_.find(id);
  if (found == sequences_.end()) return false;
  const Sequence& s = found->second;
  return s.in_flight == 1 && s.planned - s.prompt_tokens + 1 < s.max_tokens;
}

/// The decodes of the next step: those whose token is known, those of the oldest micro-batch in flight ahead
/// of their tokens, or both together.
void Scheduler::add_decodes(gpu::StepPlan& plan, FlyingStep& flying) {
  const size_t decoding = running_ + canary_running_ - prefilling_.size();
  if (decoding == 0) return;
  const size_t batches = micro_batches(decoding, limits_.stages, cost_, gain_min_);
  const size_t each = (decoding + batches - 1) / batches;

  const size_t in_flight = micro_batches_in_flight();
  const auto oldest = std::find_if(in_flight_.begin(), in_flight_.end(), [this](const FlyingStep& step) {
    return std::any_of(step.sampled.begin(), step.sampled.end(),
                       [this](const auto& sampled) { return goes_on_ahead(sampled.id); });
  });
  // A step that waits for tokens holds up what is planned behind it, unless they are there when its turn
  // comes: when it is P steps behind the one that samples them.
  const bool prefill = !prefilling_.empty();
  const bool may_wait = in_flight_.end() - oldest >= static_cast<ptrdiff_t>(limits_.stages) || !prefill;
  if (in_flight < batches && !known_.empty()) {  // one more micro-batch fills the stages
    add_known(each, plan, flying);
  } else if (in_flight <= batches && may_wait) {
    if (oldest != in_flight_.end()) add_ahead(*oldest, each, plan, flying);
    add_known(each - std::min(each, plan.sequences.size()), plan, flying);
  } else if (prefill) {
    add_known(each, plan, flying);  // beside rows that run anyway
  }
}

/// At most so many decodes whose token is known, from behind the one that was served last on: the remainder
/// rotates.
void Scheduler::add_known(size_t most, gpu::StepPlan& plan, FlyingStep& flying) {
  for (; most > 0 && !known_.empty(); --most) {
    auto next = known_.upper_bound(last_decoded_);
    if (next == known_.end()) next = known_.begin();
    last_decoded_ = *next;
    add_rows(last_decoded_, sequences_.at(last_decoded_), 1, plan, flying);  // which takes it from these
  }
}

/// At most so many of the sequences that this step samples, to go on with what it samples.
void Scheduler::add_ahead(const FlyingStep& step, size_t most, gpu::StepPlan& plan, FlyingStep& flying) {
  for (const auto& sampled : step.sampled) {
    if (most == 0) return;
    if (!goes_on_ahead(sampled.id)) continue;
    add_rows(sampled.id, sequences_.at(sampled.id), 1, plan, flying);
    --most;
  }
}

void Scheduler::add_prefill(gpu::StepPlan& plan, FlyingStep& flying) {
  uint32_t budget = limits_.prefill_tokens;
  for (auto next = prefilling_.begin(); next != prefilling_.end();) {
    const SequenceId id = *next++;  // which add_rows() may take from these
    Sequence& s = sequences_.at(id);
    // The canary's one token does not wait behind long prompts.
    const uint32_t count = s.canary ? 1 : std::min(budget, s.prompt_tokens - s.planned);
    if (count == 0) continue;
    add_rows(id, s, count, plan, flying);
    if (!s.canary) budget -= count;
  }
}

std::optional<gpu::StepPlan> Scheduler::plan() {
  if (in_flight_.size() >= limits_.steps_in_flight()) return std::nullopt;
  start_waiting();
  gpu::StepPlan plan;
  plan.step = next_step_;
  FlyingStep flying{.step = next_step_};
  add_decodes(plan, flying);
  add_prefill(plan, flying);
  if (plan.sequences.empty()) return std::nullopt;
  // A slot that ends in this step is free for the next one.
  plan.ends = std::move(ended_slots_);
  ended_slots_.clear();
  free_slots_.insert(free_slots_.end(), plan.ends.begin(), plan.ends.end());
  ++next_step_;
  in_flight_.push_back(std::move(flying));
  return plan;
}

std::vector<Progress> Scheduler::commit(const gpu::StepResult& result) {
  if (in_flight_.empty() || in_flight_.front().step != result.step)
    throw std::runtime_error("a result of step " + std::to_string(result.step) +
                             " came, but the oldest step in flight is " +
                             (in_flight_.empty() ? "none" : std::to_string(in_flight_.front().step)));
  const FlyingStep flying = std::move(in_flight_.front());
  in_flight_.pop_front();
  if (flying.rows > 0) {
    const auto rows = static_cast<float>(flying.rows);
    rows_per_step_ = rows_per_step_ == 0 ? rows : rows_per_step_ + (rows - rows_per_step_) * newest_weight;
  }
  if (flying.sampled.size() != result.sequences.size())
    throw std::runtime_error("step " + std::to_string(result.step) + " sampled " +
                             std::to_string(result.sequences.size()) + " sequences, not " +
                             std::to_string(flying.sampled.size()));
  std::vector<Progress> progress;
  for (size_t i = 0; i < flying.sampled.size(); ++i) {
    const auto& [id, slot, rows] = flying.sampled[i];
    const gpu::SampledTokens& sampled = result.sequences[i];
    if (sampled.slot != slot || sampled.tokens.size() != rows)
      throw std::runtime_error("step " + std::to_string(result.step) + " gave slot " +
                               std::to_string(sampled.slot) + " " + std::to_string(sampled.tokens.size()) +
                               " tokens, planned were slot " + std::to_string(slot) + " and " +
                               std::to_string(rows));
    const auto found = sequences_.find(id);
    if (found == sequences_.end()) continue;  // it ended before this step
    Sequence& s = found->second;
    --s.in_flight;
    Progress p{.id = id, .canary = s.canary};
    if (sampled.fault() != gpu::RowFault::none) {
      p.finish = FinishReason::failed;
      p.fault = sampled.fault();
      release(found);
      progress.push_back(std::move(p));
      continue;
    }
    const gpu::SampledToken& token = sampled.tokens.front();
    if (token.id < 0 || token.id >= limits_.vocab)
      throw std::runtime_error("step " + std::to_string(result.step) + " sampled the impossible token " +
                               std::to_string(token.id));
    s.tokens.push_back(token.id);
    const uint32_t generated = static_cast<uint32_t>(s.tokens.size()) - s.prompt_tokens;
    p.first_index = generated - 1;
    p.tokens = sampled.tokens;
    const auto& ends = s.sampling.end_tokens;
    if (std::find(ends.begin(), ends.end(), token.id) != ends.end())
      p.finish = FinishReason::stop;
    else if (generated == s.max_tokens)
      p.finish = FinishReason::length;
    if (p.finish != FinishReason::none)
      release(found);
    else if (s.in_flight == 0)
      known_.insert(id);
    progress.push_back(std::move(p));
  }
  return progress;
}

}  // namespace convoy::actors
