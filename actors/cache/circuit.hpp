#pragma once
// Circuit: whether Redis is worth asking. After some failures in a row nobody waits for it any more, until a
// probe in the background is answered. Pure; used by the answer cache on its I/O thread.

#include <cstdint>

namespace convoy::actors {

class Circuit {
 public:
  /// failures_max: how many in a row open it. retry_ms: from opening, or the last failed probe, to the next
  /// probe.
  Circuit(uint32_t failures_max, uint32_t retry_ms) : failures_max_(failures_max), retry_ms_(retry_ms) {}

  /// Requests don't ask while it is open, nor while a probe is under way.
  bool open() const { return state_ != State::closed; }

  /// True once per retry_ms while open: the caller must send one probe and report how it went.
  bool begin_probe(uint64_t now_ms) {
    if (state_ != State::open || now_ms < opened_at_ms_ + retry_ms_) return false;
    state_ = State::probing;
    return true;
  }

  void succeeded() {
    failures_ = 0;
    state_ = State::closed;
  }

  void failed(uint64_t now_ms) {
    if (state_ == State::open) return;  // a command from before it opened
    if (state_ == State::closed && ++failures_ < failures_max_) return;
    state_ = State::open;
    opened_at_ms_ = now_ms;
    failures_ = 0;
  }

 private:
  enum class State { closed, open, probing };
  const uint32_t failures_max_, retry_ms_;
  State state_ = State::closed;
  uint32_t failures_ = 0;
  uint64_t opened_at_ms_ = 0;
};

}  // namespace convoy::actors
