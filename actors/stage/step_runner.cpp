#include "actors/stage/step_runner.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace convoy::actors {

StepRunner::StepRunner(std::unique_ptr<gpu::Engine> engine, std::shared_ptr<StepClock> clock)
    : clock_(std::move(clock)), engine_(std::move(engine)) {}

void StepRunner::add(gpu::StepPlan plan) {
  const bool ahead = std::ranges::all_of(plan.sequences, &gpu::SeqStep::fed_back);
  wait_in_line({std::move(plan), {}, ahead});
}

void StepRunner::add(gpu::StepPlan plan, const Frame<msg::Activations>& frame) {
  wait_in_line({std::move(plan), frame});
}

void StepRunner::wait_in_line(Waiting step) {
  if (waiting_.size() >= waiting_max_)
    throw std::runtime_error("more than " + std::to_string(waiting_max_) +
                             " steps are queued (pipeline.pipeline_slack)");
  waiting_.push_back(std::move(step));
  ++steps_;
}

void StepRunner::feed_back(const gpu::StepResult& result) {
  last_fed_back_ = result.step;
  engine_->feed_back(result);
}

std::vector<Frame<msg::Activations>> StepRunner::submit(bool next_is_here) {
  std::vector<Frame<msg::Activations>> told;
  while (!waiting_.empty() && has_room() && engine_->resolve(waiting_.front().plan)) {
    Waiting step = std::move(waiting_.front());
    waiting_.pop_front();
    // Every step before it has come back, and none is behind it: the stages take turns.
    const bool alone = next_is_here && step.ahead && waiting_.empty() && last_fed_back_ &&
                       *last_fed_back_ + 1 == step.plan.step;
    if (goes_by_edge()) told.push_back(encode_for_edge(step.plan, engine_->hidden()));
    begin(std::move(step), next_is_here, alone);
  }
  return told;
}

void StepRunner::begin(Waiting step, bool next_is_here, bool alone) {
  if (in_flight_.empty()) clock_->begin();
  Flying& flying = in_flight_.emplace_back();
  if (step.plan.moves.empty()) flying.rows = static_cast<size_t>(step.plan.rows());
  flying.next_is_here = next_is_here;
  gpu::StepHints hints{.alone = alone};
  gpu::HiddenIn input;
  if (!engine_->first()) {
    flying.input = std::move(step.input);
    const msg::Reading message(flying.input);
    input = decode_hidden(*message, step.plan);
    hints.from_before = message->getHint();
  }
  gpu::HiddenOut output;
  if (goes_by_edge())
    output.form = form_;
  else if (!engine_->last() && step.plan.rows() <= engine_->rows_per_step())  // the engine refuses more
    output = flying.output.emplace(step.plan, engine_->hidden(), form_).hidden();
  engine_->submit(step.plan, input, output, hints);
}

std::optional<StepRunner::Done> StepRunner::next_done(std::chrono::microseconds wait) {
  if (in_flight_.empty()) return std::nullopt;
  auto result = engine_->next_done(wait);
  if (!result) return std::nullopt;
  Flying& flying = in_flight_.front();
  clock_->end(flying.rows, in_flight_.size() > 1, engine_->took_us());
  Done done{std::move(*result), {}};
  if (flying.output)
    done.hidden = std::move(*flying.output).finish(flying.next_is_here ? engine_->hint() : gpu::no_hint);
  in_flight_.pop_front();
  return done;
}

void StepRunner::reset() {
  engine_->reset();  // ends what is in flight, before the frames go
  in_flight_.clear();
  waiting_.clear();
  steps_ = 0;
  last_fed_back_.reset();
  clock_->stop();
}

}  // namespace convoy::actors
