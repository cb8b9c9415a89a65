#pragma once
// Readiness: what the pipelines said of themselves last, and when. Written by the gateway actor, read by
// sessions for /readyz and /metrics, and for the answer cache's key.

#include <chrono>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

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
  explicit Readiness(std::chrono::milliseconds period) : period_(period) {}

  void heard(uint32_t pipeline, PipelineView view, Clock::time_point now) {
    std::lock_guard lock(mutex_);
    states_[pipeline] = {std::move(view), now};
  }

  /// Empty if some pipeline said within the period that it is ready; else the reason, in words.
  std::string why_not(Clock::time_point now) const {
    std::lock_guard lock(mutex_);
    std::string reason = "no pipeline has reported yet";
    for (const auto& [pipeline, state] : states_) {
      const std::string name = "pipeline " + std::to_string(pipeline);
      if (now - state.heard_at > period_)
        reason = name + " has not reported lately";
      else if (state.view.ready)
        return {};
      else
        reason = name + (state.view.reason.empty() ? " is not ready" : ": " + state.view.reason);
    }
    return reason;
  }

  /// That every pipeline which could take a request is overloaded, by what they said within the period:
  /// why, and when it is worth to try again.
  struct Overload {
    std::string reason;
    uint32_t retry_after_ms;
  };
  std::optional<Overload> overload(Clock::time_point now) const {
    std::lock_guard lock(mutex_);
    std::optional<Overload> least;
    for (const auto& [pipeline, state] : states_) {
      if (!state.view.ready || now - state.heard_at > period_) continue;
      if (!state.view.overloaded) return std::nullopt;
      if (!least || state.view.retry_after_ms < least->retry_after_ms)
        least = {state.view.reason, state.view.retry_after_ms};
    }
    return least;
  }

  /// What all stages compute with, in their order, for the answer cache's key: results have the same bits
  /// only between equal ones. Empty while a stage is unknown.
  std::string kernel_variants() const {
    std::lock_guard lock(mutex_);
    std::string variants;
    for (const auto& [pipeline, state] : states_)
      for (const PipelineView::Stage& stage : state.view.stages) {
        if (stage.kernel_variant.empty()) return {};
        variants += stage.kernel_variant + "\n";
      }
    return variants;
  }

  /// By instance. Of a pipeline that has not reported lately, nothing is ready.
  std::map<uint32_t, PipelineView> pipelines(Clock::time_point now) const {
    std::lock_guard lock(mutex_);
    std::map<uint32_t, PipelineView> views;
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
  };
  const std::chrono::milliseconds period_;
  mutable std::mutex mutex_;
  std::map<uint32_t, State> states_;
};

}  // namespace convoy::gateway
