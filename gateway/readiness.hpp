#pragma once
// Readiness: what the pipelines said of themselves last, and when. Written by the gateway actor, read by
// sessions.

#include <chrono>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>

namespace convoy::gateway {

class Readiness {
 public:
  using Clock = std::chrono::steady_clock;
  explicit Readiness(std::chrono::milliseconds period) : period_(period) {}

  void heard(uint32_t pipeline, bool ready, std::string reason, Clock::time_point now) {
    std::lock_guard lock(mutex_);
    states_[pipeline] = {ready, std::move(reason), now};
  }

  /// Empty if some pipeline said within the period that it is ready; else the reason, in words.
  std::string why_not(Clock::time_point now) const {
    std::lock_guard lock(mutex_);
    std::string reason = "no pipeline has reported yet";
    for (const auto& [pipeline, state] : states_) {
      const std::string name = "pipeline " + std::to_string(pipeline);
      if (now - state.heard_at > period_)
        reason = name + " has not reported lately";
      else if (state.ready)
        return {};
      else
        reason = name + (state.reason.empty() ? " is not ready" : ": " + state.reason);
    }
    return reason;
  }

 private:
  struct State {
    bool ready = false;
    std::string reason;
    Clock::time_point heard_at;
  };
  const std::chrono::milliseconds period_;
  mutable std::mutex mutex_;
  std::map<uint32_t, State> states_;
};

}  // namespace convoy::gateway
