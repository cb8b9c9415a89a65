#pragma once
// ThreadPool: the threads of one CPU backend. The backend's calling thread hands it a loop and works on it
// too; between loops the workers spin for a short bounded time, because the next loop of a step is
// microseconds away, then sleep.

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <type_traits>
#include <vector>

namespace convoy::gpu {

class ThreadPool {
 public:
  static constexpr int threads_max = CPU_SETSIZE;  // as many cores as one process can be given: 1,024
  /// How long an idle worker, or a caller that waits for the last chunk, keeps its core before it gives it
  /// up.
  static constexpr std::chrono::microseconds spin_max{50};

  /// `threads` in [1, threads_max] includes the caller. Throws InputError outside of it, and if the system
  /// has not so many.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  /// Gives each thread a core of its own, the caller the first one, if this process may use exactly as many:
  /// one that the system puts on another's core holds up all of them at the end of every loop. With fewer
  /// threads the system knows better where there is room. Lasts as long as the pool.
  void bind();

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  /// Calls body(chunk, thread) once for every chunk in [0, chunks), thread in [0, threads()), and returns
  /// when all are done. Which thread gets which chunk is open, so no result may depend on it. What a body
  /// throws is thrown here once all chunks are done, the first of several: a step that finds no memory fails,
  /// not the process.
  template <class Body>
  void parallel_for(int64_t chunks, const Body& body) {
    if (chunks <= 1 || workers_.empty()) {
      for (int64_t i = 0; i < chunks; ++i) body(i, 0);
      return;
    }
    run(
        chunks, [](const void* b, int64_t i, int t) { (*static_cast<const Body*>(b))(i, t); }, &body);
  }

 private:
  using Call = void (*)(const void*, int64_t, int);
  void run(int64_t chunks, Call call, const void* body);
  bool work(int thread);
  void worker(int thread);
  void end_workers();

  // A claim of a chunk keeps the loop alive until `unfinished_` counts it, so call_, body_ and chunks_ are
  // stable for claimers, and a worker that wakes late finds nothing to claim and touches none of them.
  alignas(64) std::atomic<int64_t> unclaimed_{0};
  alignas(64) std::atomic<int64_t> unfinished_{0};
  alignas(64) std::atomic<uint32_t> loops_{0};  // what sleepers wait on
  std::atomic<bool> stop_{false};
  Call call_ = nullptr;
  const void* body_ = nullptr;
  int64_t chunks_ = 0;
  std::mutex failing_;  // guards the next one; taken only when a body throws
  std::exception_ptr failure_;
  std::vector<std::thread> workers_;
  struct Bound {
    pthread_t thread;
    cpu_set_t before;
  };
  std::optional<Bound> caller_;  // once bound
};

}  // namespace convoy::gpu
