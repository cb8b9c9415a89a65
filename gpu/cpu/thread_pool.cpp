#include "gpu/cpu/thread_pool.hpp"

#include <immintrin.h>

#include <string>
#include <system_error>
#include <utility>

#include "gpu/cpu/cores.hpp"
#include "model/error.hpp"
#include "model/scarce.hpp"

namespace convoy::gpu {

namespace {

/// Spins until done() or spin_max has passed; true if done.
template <class Done>
bool spin(const Done& done) {
  const auto start = std::chrono::steady_clock::now();
  for (;;) {
    for (int i = 0; i < 64; ++i) {
      if (done()) return true;
      _mm_pause();
    }
    if (std::chrono::steady_clock::now() - start > ThreadPool::spin_max) return false;
  }
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  if (threads < 1 || threads > threads_max)
    throw InputError(std::to_string(threads) + " threads", "threads of the CPU backend",
                     "allowed: 1 to " + std::to_string(threads_max));
  try {
    for (int t = 1; t < threads; ++t) workers_.emplace_back([this, t] { worker(t); });
  } catch (const std::system_error& e) {
    end_workers();
    throw InputError("thread " + std::to_string(workers_.size() + 2) + " of " + std::to_string(threads) +
                         " cannot be started: " + e.code().message(),
                     "threads of the CPU backend",
                     mend_of(e.code().value(), "") + ", or lower stage.threads");
  }
}

void ThreadPool::end_workers() {
  stop_ = true;
  loops_.fetch_add(1);
  loops_.notify_all();
  for (std::thread& t : workers_) t.join();
}

ThreadPool::~ThreadPool() {
  end_workers();
  if (caller_ && pthread_equal(caller_->thread, pthread_self()))
    pthread_setaffinity_np(caller_->thread, sizeof(cpu_set_t), &caller_->before);
}

void ThreadPool::bind() {
  if (workers_.empty() || caller_) return;
  Bound caller{pthread_self(), {}};
  // Where the system does not tell, or will not have it, threads stay where it puts them.
  if (pthread_getaffinity_np(caller.thread, sizeof(cpu_set_t), &caller.before) != 0 ||
      CPU_COUNT(&caller.before) != threads())
    return;
  caller_ = caller;
  int core = -1;
  const auto bind_next = [&](pthread_t thread) {
    do ++core;
    while (!CPU_ISSET(core, &caller.before));
    const cpu_set_t own = only(core);
    pthread_setaffinity_np(thread, sizeof(own), &own);
  };
  bind_next(caller.thread);
  for (std::thread& worker : workers_) bind_next(worker.native_handle());
}

void ThreadPool::run(int64_t chunks, Call call, const void* body) {
  call_ = call;
  body_ = body;
  chunks_ = chunks;
  unfinished_.store(chunks, std::memory_order_relaxed);
  unclaimed_.store(chunks, std::memory_order_release);
  loops_.fetch_add(1);
  loops_.notify_all();  // a system call only while somebody sleeps
  work(0);
  const auto done = [this] { return unfinished_.load(std::memory_order_acquire) == 0; };
  while (!spin(done))
    std::this_thread::yield();  // the last chunk's thread may have lost its core to another process
  // All bodies are done, and what they wrote is seen.
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
}

/// Works until no chunk is left to claim; true if it had one.
bool ThreadPool::work(int thread) {
  bool any = false;
  int64_t left = unclaimed_.load(std::memory_order_acquire);
  while (left > 0) {
    if (!unclaimed_.compare_exchange_weak(left, left - 1, std::memory_order_acq_rel,
                                          std::memory_order_acquire))
      continue;
    try {
      call_(body_, chunks_ - left, thread);  // upwards, as memory is fetched ahead
    } catch (...) {
      const std::lock_guard lock(failing_);
      if (!failure_) failure_ = std::current_exception();
    }
    unfinished_.fetch_sub(1, std::memory_order_release);
    any = true;
    left = unclaimed_.load(std::memory_order_acquire);
  }
  return any;
}

void ThreadPool::worker(int thread) {
  uint32_t seen = loops_.load();
  while (!stop_) {
    if (work(thread)) continue;
    if (!spin([&] { return loops_.load(std::memory_order_acquire) != seen; })) loops_.wait(seen);
    seen = loops_.load();
  }
}

}  // namespace convoy::gpu
