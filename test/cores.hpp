#pragma once
// Which cores threads may use, for tests of what moves them.

#include <pthread.h>
#include <sched.h>

#include <boost/test/unit_test.hpp>
#include <future>
#include <set>
#include <thread>

namespace convoy::test {

inline std::set<int> cores_of(pthread_t thread) {
  cpu_set_t mask;
  BOOST_REQUIRE_EQUAL(pthread_getaffinity_np(thread, sizeof(mask), &mask), 0);
  std::set<int> cores;
  for (int core = 0; core < CPU_SETSIZE; ++core)
    if (CPU_ISSET(core, &mask)) cores.insert(core);
  return cores;
}

/// A thread that does nothing as long as this object lives.
class SleepingThread {
 public:
  ~SleepingThread() {
    end_.set_value();
    thread_.join();
  }
  pthread_t id() { return thread_.native_handle(); }
  std::set<int> cores() { return cores_of(id()); }

 private:
  std::promise<void> end_;
  std::thread thread_{[ended = end_.get_future()]() mutable { ended.get(); }};
};

}  // namespace convoy::test
