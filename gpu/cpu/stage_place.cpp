#include "gpu/cpu/stage_place.hpp"

#include <time.h>

#include <algorithm>

#include "gpu/cpu/cores.hpp"

namespace convoy::gpu {

namespace {

std::chrono::nanoseconds read(clockid_t clock) {
  timespec t{};
  clock_gettime(clock, &t);
  return std::chrono::seconds(t.tv_sec) + std::chrono::nanoseconds(t.tv_nsec);
}

}  // namespace

StagePlace::Clocks StagePlace::Clocks::now() {
  return {read(CLOCK_MONOTONIC), read(CLOCK_THREAD_CPUTIME_ID)};
}

StagePlace::StagePlace(const std::vector<pthread_t>& threads) {
  for (const pthread_t id : threads) {
    Thread thread{id, {}};
    if (pthread_getaffinity_np(id, sizeof(thread.allowed), &thread.allowed) == 0) threads_.push_back(thread);
  }
}

std::optional<int> StagePlace::here() {
  const int core = sched_getcpu();
  return core < 0 ? std::nullopt : std::optional(core);
}

bool StagePlace::all_may_use(int core) const {
  return core >= 0 && core < CPU_SETSIZE &&
         std::all_of(threads_.begin(), threads_.end(),
                     [core](const Thread& thread) { return CPU_ISSET(core, &thread.allowed); });
}

void StagePlace::stay_on(std::optional<int> core) {
  if (threads_.empty()) return;
  if (displaced_ || (core && !all_may_use(*core))) core.reset();
  if (core == core_) return;
  core_ = core;
  for (const Thread& thread : threads_) {
    const cpu_set_t cores = core ? only(*core) : thread.allowed;
    // Refused only if somebody took the core away meanwhile. The thread then runs where it did: slower, not
    // wrong.
    pthread_setaffinity_np(thread.id, sizeof(cores), &cores);
  }
}

void StagePlace::begin() {
  if (!threads_.empty()) begun_ = Clocks::now();
}

void StagePlace::end() {
  if (threads_.empty()) return;
  const Clocks now = Clocks::now();
  displaced_ = (now.wall - begun_.wall) - (now.cpu - begun_.cpu) > displaced_max;
}

}  // namespace convoy::gpu
