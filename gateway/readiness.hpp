#pragma once
// Readiness: what the pipelines said of themselves last, and when, by their names. Written by the gateway
// actor, read by sessions for /readyz and /metrics, and for the answer cache's key.

#include <chrono>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "actors/model_readiness.hpp"

namespace convoy::gateway {

/// What one pipeline said (schema::PipelineState).
struct PipelineView {
  struct Stage {
    bool ready = false;
    uint32_t restarts = 0;
    std::string kernel_variant = {};  // of its Hello; empty if it is not there
    float bubble_ratio = 0;
  };
  struct Counters {
    uint64_t prompt_tokens = 0, cached_tokens = 0, preemptions = 0, drafted_tokens = 0, accepted_tokens = 0;
    uint64_t saved_blocks = 0, loaded_blocks = 0;
  };
  std::string model = {};  // id of the one that it serves
  bool ready = false;
  std::string reason;  // why not, or why it is overloaded
  bool overloaded = false;
  uint32_t retry_after_ms = 0, wait_estimate_ms = 0;
  uint32_t running = 0, waiting = 0;
  std::string waiting_for;  // "slots", "blocks"; empty: nobody waits
  uint32_t kv_blocks_used = 0, kv_blocks = 0, kv_blocks_cached = 0;
  uint32_t steps_in_flight = 0, micro_batches = 0;
  float rows_per_step = 0;
  Counters counters;
  std::vector<Stage> stages;
};

class Readiness {
 public:
  using Clock = std::chrono::steady_clock;
  /// models: the ids of all that are served.
  Readiness(std::chrono::milliseconds period, std::vector<std::string> models)
      : period_(period), models_(std::move(models)) {}

  void heard(const std::string& pipeline, PipelineView view, Clock::time_point now) {
    std::lock_guard lock(mutex_);
    State& state = states_[pipeline];
    if (std::string variants = variants_of(view); !variants.empty() && variants != state.variants)
      state.variants = std::move(variants), ++revisions_[view.model];
    state.view = std::move(view), state.heard_at = now;
  }

  /// What is served, where that was not known yet.
  void serve(std::vector<std::string> models) {
    std::lock_guard lock(mutex_);
    models_ = std::move(models);
  }

  /// The pipelines' own words are heard no more, for that reason, until back(). What they said is forgotten.
  void away(std::string reason) {
    std::lock_guard lock(mutex_);
    away_ = std::move(reason);
    states_.clear();
  }
  void back() {
    std::lock_guard lock(mutex_);
    away_.clear();
  }

  /// Empty if of each model some pipeline said within the period that it is ready; else the reason, in words.
  std::string why_not(Clock::time_point now) const {
    std::lock_guard lock(mutex_);
    if (!away_.empty()) return away_;
    std::vector<actors::PipelineHealth> healths;
    for (const auto& [pipeline, state] : states_)
      healths.push_back(
          {pipeline, state.view.model, now - state.heard_at > period_, state.view.ready, state.view.reason});
    return actors::why_not_ready(models_, healths);
  }

  /// That every pipeline which could take a request is overloaded, by what they said within the period:
  /// why, and when it is worth to try again. Of all models, or of one.
  struct Overload {
    std::string reason;
    uint32_t retry_after_ms;
  };
  std::optional<Overload> overload(Clock::time_point now,
                                   const std::optional<std::string>& model = {}) const {
    std::lock_guard lock(mutex_);
    std::optional<Overload> least;
    for (const auto& [pipeline, state] : states_) {
      if (model && state.view.model != *model) continue;
      if (!state.view.ready || now - state.heard_at > period_) continue;
      if (!state.view.overloaded) return std::nullopt;
      if (!least || state.view.retry_after_ms < least->retry_after_ms)
        least = {state.view.reason, state.view.retry_after_ms};
    }
    return least;
  }

  /// What all stages of that model's pipelines compute with, in their order, for the answer cache's key:
  /// results have the same bits only between equal ones. Empty while none is known whole, or if replicas
  /// differ. revision: as variants_revision().
  struct Variants {
    std::string text;
    uint64_t revision = 0;
  };
  Variants kernel_variants(const std::string& model) const {
    std::lock_guard lock(mutex_);
    std::set<std::string> texts;
    for (const auto& [pipeline, state] : states_)
      if (state.view.model == model) texts.insert(variants_of(state.view));
    texts.erase("");  // what a replica will compute with whose stage is missing, it says before it does
    if (texts.size() != 1) return {};
    return {*texts.begin(), revision_of(model)};
  }
  /// Rises whenever they become others: what was computed meanwhile is the answer of neither. Said before the
  /// first token that is computed so.
  uint64_t variants_revision(const std::string& model) const {
    std::lock_guard lock(mutex_);
    return revision_of(model);
  }

  /// By name. Of a pipeline that has not reported lately, nothing is ready.
  std::map<std::string, PipelineView> pipelines(Clock::time_point now) const {
    std::lock_guard lock(mutex_);
    std::map<std::string, PipelineView> views;
    for (const auto& [pipeline, state] : states_) {
      PipelineView& view = views[pipeline] = state.view;
      if (now - state.heard_at <= period_) continue;
      view.ready = false;
      for (PipelineView::Stage& stage : view.stages) stage.ready = false;
    }
    return views;
  }

 private:
  struct State {
    PipelineView view;
    Clock::time_point heard_at;
    std::string variants;  // the last that were known
  };

  static std::string variants_of(const PipelineView& view) {
    std::string variants;
    for (const PipelineView::Stage& stage : view.stages) {
      if (stage.kernel_variant.empty()) return {};
      variants += stage.kernel_variant + "\n";
    }
    return variants;
  }

  uint64_t revision_of(const std::string& model) const {
    const auto found = revisions_.find(model);
    return found == revisions_.end() ? 0 : found->second;
  }

  const std::chrono::milliseconds period_;
  mutable std::mutex mutex_;
  std::vector<std::string> models_;
  std::map<std::string, State> states_;
  std::map<std::string, uint64_t> revisions_;  // of the variants, by model
  std::string away_;
};

}  // namespace convoy::gateway
