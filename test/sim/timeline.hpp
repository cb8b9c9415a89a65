#pragma once
// Timeline: virtual time, and what happens when. Events of the same moment happen in the order in which they
// were added.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>

namespace sim {

class Timeline {
 public:
  using Clock = std::chrono::steady_clock;  // CAF's
  using Time = Clock::time_point;
  using Duration = Clock::duration;
  static constexpr Time never = Time::max();

  Time now() const { return now_; }
  void at(Time when, std::function<void()> what) { events_.emplace(std::max(when, now_), std::move(what)); }
  void after(Duration time, std::function<void()> what) { at(now_ + time, std::move(what)); }
  Time next() const { return events_.empty() ? never : events_.begin()->first; }
  /// What is due, one event at a time. False: nothing is.
  bool run_one() {
    if (next() > now_) return false;
    const auto what = std::move(events_.begin()->second);
    events_.erase(events_.begin());
    what();
    return true;
  }
  void advance(Time to) { now_ = std::max(now_, to); }

 private:
  Time now_{std::chrono::hours(1)};  // some clocks begin with 0, which then means nothing
  std::multimap<Time, std::function<void()>> events_;
};

inline Timeline::Duration us(double time_us) {
  return std::chrono::microseconds(static_cast<int64_t>(time_us));
}

/// Milliseconds since 1970, by virtual time.
inline uint64_t wall_ms(const Timeline& timeline) {
  constexpr uint64_t begin_ms = 1'700'000'000'000;
  return begin_ms + static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(
                                              timeline.now().time_since_epoch())
                                              .count());
}

}  // namespace sim
