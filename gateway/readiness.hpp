#pragma once
// Readiness: what the pipelines said of themselves last, and when. Written by the gateway actor, read by
// sessions for /readyz and /metrics, and for the answer cache's key.

#include <chrono>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace convoy::gateway {

/// What one pipeline said (schema::PipelineState).
struct PipelineView {
  struct Stage {
    bool ready = false;
    uint32_t restarts = 0;
    std::string kernel_variant = {};  // of its Hello; empty if it is not there
  };
  bool ready = false;
  std::string reason;  // why not
  uint32_t running = 0, waiting = 0;
  uint32_t kv_blocks_used = 0, kv_blocks = 0;
  uint32_t steps_in_flight = 0, micro_batches = 0;
  float rows_per_step = 0;
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
