#pragma once
// The time of day, as what is kept and shown says it. What is waited for goes by the steady clock.

#include <chrono>
#include <cstdint>

namespace convoy::actors {

/// Seconds since 1970.
inline int64_t unix_s() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace convoy::actors
