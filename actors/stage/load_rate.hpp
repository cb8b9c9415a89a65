#pragma once
// LoadRate: how far the loading of weights is, and how fast, for the log. Pure: it is told the time.

#include <chrono>
#include <cstdint>

namespace convoy::actors {

class LoadRate {
 public:
  using Clock = std::chrono::steady_clock;
  /// Between lines of the log.
  static constexpr std::chrono::seconds interval{2};

  /// So many bytes are loaded; the first call, with none, is the beginning. Whether a line is due.
  bool at(uint64_t done, uint64_t total, Clock::time_point now) {
    if (total_ == 0) begin_ = next_ = now, next_ += interval;
    done_ = done, total_ = total, now_ = now;
    if (now < next_ || done == total) return false;
    next_ = now + interval;
    return true;
  }

  uint64_t done() const { return done_; }
  uint64_t total() const { return total_; }
  double seconds() const { return std::chrono::duration<double>(now_ - begin_).count(); }
  /// 0 as long as there is nothing to tell it by.
  double bytes_per_s() const { return seconds() > 0 ? static_cast<double>(done_) / seconds() : 0; }
  double seconds_left() const { return done_ > 0 ? static_cast<double>(total_ - done_) / bytes_per_s() : 0; }

 private:
  uint64_t done_ = 0, total_ = 0;
  Clock::time_point begin_, next_, now_;
};

}  // namespace convoy::actors
