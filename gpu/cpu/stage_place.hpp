#pragma once
// StagePlace: which core a stage with one thread computes on. Stages of one machine that take turns stay on
// one core: handing over then switches threads, where it would otherwise wake a sleeping processor, twice.
// Belongs to one thread. docs/decisions/0008

#include <pthread.h>
#include <sched.h>

#include <chrono>
#include <optional>
#include <vector>

namespace convoy::gpu {

class StagePlace {
 public:
  /// Losing its core for longer than that in one step means that somebody else keeps the core busy.
  static constexpr std::chrono::microseconds displaced_max{500};

  /// The threads that move together, while this object lives: the one that computes, and those that it gets
  /// its work from. None: the stage stays wherever the system puts it, and core() is empty.
  explicit StagePlace(const std::vector<pthread_t>& threads);
  ~StagePlace() { stay_on(std::nullopt); }
  StagePlace(const StagePlace&) = delete;
  StagePlace& operator=(const StagePlace&) = delete;

  /// The core that the calling thread is on.
  static std::optional<int> here();

  /// Computes on that core from now on; none: wherever the system likes. So it is too if one of the threads
  /// may not use that core, or if others displaced the stage in its last step: the system then has one step's
  /// time to find it a better one.
  void stay_on(std::optional<int> core);
  std::optional<int> core() const { return core_; }

  /// Around a step, on the thread that computes.
  void begin();
  void end();

 private:
  struct Thread {
    pthread_t id;
    cpu_set_t allowed;  // before this class changed it
  };
  struct Clocks {
    std::chrono::nanoseconds wall{}, cpu{};
    static Clocks now();
  };
  bool all_may_use(int core) const;

  std::vector<Thread> threads_;
  std::optional<int> core_;
  Clocks begun_;
  bool displaced_ = false;
};

}  // namespace convoy::gpu
