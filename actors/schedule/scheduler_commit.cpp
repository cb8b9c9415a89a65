// Scheduler: what a step gave.

#include <algorithm>
#include <stdexcept>

#include "actors/schedule/scheduler.hpp"

namespace convoy::actors {

namespace {

using std::to_string;

/// Of the newest step in rows_per_step(): the last twenty or so count.
constexpr float newest_weight = 0.05f;

}  // namespace

std::vector<Progress> Scheduler::commit(gpu::StepResult result, Micros now) {
  if (in_flight_.empty() || in_flight_.front().step != result.step)
    throw std::runtime_error("a result of step " + to_string(result.step) +
                             " came, but the oldest step in flight is " +
                             (in_flight_.empty() ? "none" : to_string(in_flight_.front().step)));
  check(in_flight_.front(), result);
  now_ = now;
  const FlyingStep flying = std::move(in_flight_.front());
  in_flight_.pop_front();
  sampling_in_flight_ -= flying.samples;

  std::vector<Progress> progress;
  progress.reserve(result.sequences.size());
  size_t finished = 0;
  auto sampled = result.sequences.begin();
  for (const FlyingRows& rows : flying.sequences) {
    Sequence* const s = living(rows.slot, rows.life);  // or it ended before this step
    if (rows.sampled > 0) {
      if (s) {
        progress.push_back(take(*s, std::move(*sampled)));
        finished += progress.back().finish != FinishReason::none;
      }
      ++sampled;
    } else if (s) {
      publish(*s, rows.end);
    }
  }
  wake_followers();
  measure(flying, finished);
  return progress;
}

/// Throws std::runtime_error unless the result is one of this step.
void Scheduler::check(const FlyingStep& flying, const gpu::StepResult& result) const {
  const std::string step = "step " + to_string(result.step);
  auto sampled = result.sequences.begin();
  const auto planned = static_cast<size_t>(
      std::ranges::count_if(flying.sequences, [](const FlyingRows& rows) { return rows.sampled > 0; }));
  if (planned != result.sequences.size())
    throw std::runtime_error(step + " sampled " + to_string(result.sequences.size()) + " sequences, not " +
                             to_string(planned));
  for (const FlyingRows& rows : flying.sequences) {
    if (rows.sampled == 0) continue;
    if (sampled->slot != rows.slot || sampled->tokens.size() != rows.sampled)
      throw std::runtime_error(step + " gave slot " + to_string(sampled->slot) + " " +
                               to_string(sampled->tokens.size()) + " tokens, planned were slot " +
                               to_string(rows.slot) + " and " + to_string(rows.sampled));
    for (const gpu::SampledToken& token : sampled->tokens)
      if (token.fault == gpu::RowFault::none && (token.id < 0 || token.id >= limits_.vocab))
        throw std::runtime_error(step + " sampled the impossible token " + to_string(token.id));
    ++sampled;
  }
}

/// The tokens that a sequence sampled, up to the first that was not guessed.
Progress Scheduler::take(Sequence& s, gpu::SampledTokens sampled) {
  --s.in_flight;
  Progress p;
  p.id = s.id;
  p.canary = s.canary;
  p.first_index = static_cast<uint32_t>(s.tokens.size()) - s.prompt_tokens;
  p.tokens = std::move(sampled.tokens);
  const auto& ends = s.sampling.end_tokens;
  size_t right = 0;
  for (size_t i = 0;; ++i) {
    if (p.tokens[i].fault != gpu::RowFault::none) {
      p.finish = FinishReason::failed;
      p.fault = p.tokens[i].fault;
      p.tokens.clear();
      break;
    }
    s.tokens.push_back(p.tokens[i].id);
    if (std::ranges::find(ends, s.tokens.back()) != ends.end())
      p.finish = FinishReason::stop;
    else if (s.tokens.size() - s.prompt_tokens == s.max_tokens)
      p.finish = FinishReason::length;
    if (p.finish != FinishReason::none || right == s.drafts.size() || s.drafts[right] != s.tokens.back()) {
      p.tokens.resize(i + 1);
      break;
    }
    ++right;
  }
  if (!s.drafts.empty()) {
    s.lookup->judge(s.drafts.size(), right);
    counters_.accepted_tokens += right;
    s.drafts.clear();
    s.planned = static_cast<uint32_t>(s.tokens.size()) - 1;  // those behind are written again
  }
  if (p.finish != FinishReason::failed) publish(s, static_cast<uint32_t>(s.tokens.size()) - 1);
  if (p.finish != FinishReason::none && !s.canary) count_time(s);
  p.facts = s.facts;
  const bool was_alone = alone_.erase(s.id) > 0;
  if (p.finish != FinishReason::none)
    erase(s);
  else if (was_alone && !alone_.empty())
    requeue(s);  // it goes on beside others when the others had their turn
  else if (s.in_flight == 0)
    enter(s, State::ready);
  return p;
}

void Scheduler::measure(const FlyingStep& flying, size_t finished) {
  if (flying.rows > 0) {
    const auto rows = static_cast<float>(flying.rows);
    rows_per_step_ = rows_per_step_ == 0 ? rows : rows_per_step_ + (rows - rows_per_step_) * newest_weight;
  }
  const Micros took = now_ - std::max(flying.planned_at, committed_at_);
  committed_at_ = now_;
  if (flying.prompt_rows > 0) load_.read(flying.prompt_rows, took);
  if (waiting_ > 0) load_.finished(finished, took);
}

}  // namespace convoy::actors
