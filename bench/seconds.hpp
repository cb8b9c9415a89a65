#pragma once
// What the benchmarks measure with: wall time, and what the process's threads spent on their cores. They
// differ where others use the machine.

#include <time.h>

namespace convoy::bench {

inline double seconds_now(clockid_t clock) {
  timespec t{};
  clock_gettime(clock, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

struct Seconds {
  double wall = 0, cpu = 0;
};

template <class Work>
Seconds time_of(const Work& work) {
  const double wall = seconds_now(CLOCK_MONOTONIC), cpu = seconds_now(CLOCK_PROCESS_CPUTIME_ID);
  work();
  return {seconds_now(CLOCK_MONOTONIC) - wall, seconds_now(CLOCK_PROCESS_CPUTIME_ID) - cpu};
}

}  // namespace convoy::bench
