#pragma once
// How long tests wait for what must happen, and what they know of how slow they are. For every test program.

#include <chrono>
#include <cstdint>
#include <thread>

namespace convoy::test {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool sanitized = true;
#else
inline constexpr bool sanitized = false;
#endif

/// So long that only what never happens fails, however busy the machine is. It costs nothing where all is
/// well.
inline constexpr std::chrono::seconds patience{60};
inline constexpr uint32_t patience_ms = 60'000;

/// Whether that becomes true, sooner or later.
template <class Condition>
bool comes_true(Condition condition) {
  const auto give_up = std::chrono::steady_clock::now() + patience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > give_up) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return true;
}

}  // namespace convoy::test
