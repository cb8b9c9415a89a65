#include "test/sim/stages.hpp"

#include <algorithm>
#include <set>

#include "gpu/sampler.hpp"

namespace sim {

using namespace convoy;
using std::to_string;

double ChainTimes::run(const gpu::StepPlan& plan, double now_us) {
  double rows = 0, context = 0, at = now_us + costs_.hop_us;
  for (const gpu::SeqStep& step : plan.sequences) {
    const auto count = static_cast<double>(step.tokens.size());
    rows += count;
    context += count * (step.first_position + (count + 1) / 2);
    if (step.slot >= sampled_us_.size()) sampled_us_.resize(step.slot + 1);
    if (step.fed_back()) at = std::max(at, sampled_us_[step.slot] + costs_.hop_us);
  }
  const double mean_us = costs_.fixed_us + costs_.per_row_us * rows + costs_.per_context_us * context;
  std::lognormal_distribution<double> jitter(0, costs_.jitter);
  for (size_t stage = 0; stage < free_us_.size(); ++stage) {
    took_us_ = costs_.jitter > 0 ? mean_us * jitter(random_) : mean_us;
    at = std::max(at, free_us_[stage]) + took_us_;
    free_us_[stage] = at;
    busy_us_[stage] += took_us_;
    if (stage + 1 < free_us_.size()) at += costs_.hop_us;
  }
  for (const gpu::SeqStep& step : plan.sequences)
    if (step.sampled_rows > 0) sampled_us_[step.slot] = at;
  return at + costs_.hop_us;
}

gpu::StepResult Stages::run(const gpu::StepPlan& plan) {
  gpu::StepResult result{plan.epoch, plan.step, {}};
  for (const gpu::SeqStart& s : plan.starts) start(s);
  for (const gpu::BlockChange& c : plan.block_changes) change(c);
  for (const gpu::BlockMove& m : plan.moves) move(m);
  require(!plan.sequences.empty() || !plan.moves.empty(), "a step that does nothing");
  require(plan.moves.size() <= limits_.kv_tier.moves_per_step, (plan.moves.size()), " moves in a step");
  require(plan.rows() <= limits_.rows(), (plan.rows()), " rows in a step");
  std::set<uint32_t> seen;
  for (const gpu::SeqStep& step : plan.sequences) {
    require(seen.insert(step.slot).second, "slot ", step.slot, " comes twice in a step");
    auto sampled = run(step, plan.step);
    if (step.sampled_rows > 0) result.sequences.push_back(std::move(sampled));
  }
  for (const uint32_t slot : plan.ends) {
    require(slot < slots_.size() && slots_[slot].started, "slot ", slot, " ends, but never started");
    slots_[slot] = {};
  }
  return result;
}

void Stages::start(const gpu::SeqStart& start) {
  const std::string who = "slot " + to_string(start.slot);
  require(start.slot < slots_.size(), who, " does not exist");
  Slot& slot = slots_[start.slot];
  require(!slot.started, who, " is started before it ended");
  require(start.prompt_tokens > 0 && start.prompt_tokens <= limits_.context_tokens, who,
          " has an odd prompt");
  require(!gpu::refuse_sampling(start.sampling, vocab), who, " samples oddly");
  slot = {};
  slot.started = true;
  slot.start = start;
  slot.length = start.cached_tokens;
  if (!start.sampling.penalized()) {
    require(start.history.empty(), who, " brings a history that nobody needs");
    return;
  }
  require(start.history.size() == start.cached_tokens, who, " brings a history of ", start.history.size(),
          " tokens for ", start.cached_tokens);
  uint64_t sum = 0;
  for (size_t i = 0; i < start.history.size(); ++i)
    slot.penalties.push_back(sum += penalty_of(start.history[i], i < start.prompt_tokens));
}

void Stages::change(const gpu::BlockChange& change) {
  require(change.slot < slots_.size() && slots_[change.slot].started, "slot ", change.slot,
          " gets a block before it started");
  require(change.block < blocks_.size(), "block ", change.block, " does not exist");
  std::vector<uint32_t>& table = slots_[change.slot].table;
  require(change.index <= table.size(), "slot ", change.slot, " gets block ", change.index,
          " of its table behind ", table.size());
  if (change.index == table.size()) table.push_back(0);
  table[change.index] = change.block;
}

void Stages::move(const gpu::BlockMove& move) {
  require(move.block < blocks_.size(), "block ", move.block, " moves, but does not exist");
  require(move.place < places_.size(), "place ", move.place, " does not exist");
  std::optional<Block>& place = places_[move.place];
  if (move.way == gpu::BlockMove::Way::save) {
    place = blocks_[move.block];
  } else {
    require(place.has_value(), "place ", move.place, " is loaded from, but holds nothing");
    blocks_[move.block] = *place;
  }
}

Cell& Stages::cell(const Slot& slot, int64_t position) {
  const auto place = gpu::KvPlace::of(slot.table.data(), position);
  return blocks_[static_cast<size_t>(place.block)][static_cast<size_t>(place.token)];
}

gpu::SampledTokens Stages::run(const gpu::SeqStep& step, uint64_t number) {
  const std::string who = "slot " + to_string(step.slot);
  require(step.slot < slots_.size() && slots_[step.slot].started, who, " has rows before it started");
  Slot& slot = slots_[step.slot];
  const auto count = static_cast<int64_t>(step.tokens.size()), first = int64_t{step.first_position};
  require(count > 0 && step.sampled_rows <= count, who, " has no rows, or fewer than it samples");
  require(first <= slot.length, who, " goes on at position ", first, " behind ", slot.length);
  require(first >= slot.start.cached_tokens, who, " writes what it found");
  require(first + count <= limits_.context_tokens, who, " leaves the context");
  require(static_cast<size_t>(gpu::kv_blocks_for(first + count)) <= slot.table.size(), who, " lacks a block");
  require(!step.fed_back() || (slot.sampled_in && first == slot.length), who,
          " goes on with a token that it did not sample");

  const auto cells = [&](int64_t position) -> const Cell& { return cell(slot, position); };
  const bool penalized = slot.start.sampling.penalized();
  if (penalized) slot.penalties.resize(static_cast<size_t>(first));
  gpu::SampledTokens sampled{step.slot, {}};
  for (int64_t i = 0; i < count; ++i) {
    const int64_t position = first + i;
    const int32_t token = step.fed_back() ? slot.sampled : step.tokens[static_cast<size_t>(i)];
    require(token >= 0 && token < vocab, who, " brings the impossible token ", token);
    if (skipped_row != rows_run_++) cell(slot, position) = compute(cells, position, token);
    if (penalized) {
      const uint64_t before = slot.penalties.empty() ? 0 : slot.penalties.back();
      slot.penalties.push_back(before + penalty_of(token, position < slot.start.prompt_tokens));
    }
    if (i >= count - step.sampled_rows)
      sampled.tokens.push_back(sample(cells, position, slot.start.prompt_tokens, slot.start.sampling,
                                      penalized ? slot.penalties.back() : 0));
  }
  slot.length = first + count;
  slot.sampled_in.reset();
  if (step.sampled_rows > 0) slot.sampled_in = number, slot.sampled = sampled.tokens.back().id;
  return sampled;
}

}  // namespace sim
