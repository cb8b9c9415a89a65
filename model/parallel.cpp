#include "model/parallel.hpp"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace convoy::model {

void in_parallel(size_t count, size_t threads_max, const std::function<void(size_t)>& work) {
  std::atomic<size_t> next{0};
  std::mutex mutex;
  std::exception_ptr failure;
  const auto loop = [&] {
    try {
      for (size_t i; (i = next++) < count;) work(i);
    } catch (...) {
      const std::scoped_lock lock(mutex);
      failure = std::current_exception();
      next = count;
    }
  };
  std::vector<std::thread> threads;
  try {
    for (size_t i = 1; i < std::min(threads_max, count); ++i) threads.emplace_back(loop);
  } catch (const std::system_error&) {
    // As many as the system gives.
  }
  loop();
  for (std::thread& thread : threads) thread.join();
  if (failure) std::rethrow_exception(failure);
}

size_t all_cores() { return std::max(1u, std::thread::hardware_concurrency()); }

}  // namespace convoy::model
