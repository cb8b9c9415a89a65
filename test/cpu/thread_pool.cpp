#include "gpu/cpu/thread_pool.hpp"

#include <sys/resource.h>

#include <boost/test/unit_test.hpp>
#include <fstream>
#include <numeric>
#include <set>

#include "model/error.hpp"
#include "test/cores.hpp"

using convoy::gpu::ThreadPool;

BOOST_AUTO_TEST_CASE(every_chunk_runs_once_and_is_done_on_return) {
  for (int threads : {1, 2, 3, 5}) {
    ThreadPool pool(threads);
    BOOST_TEST(pool.threads() == threads);
    for (int loop = 0; loop < 2000; ++loop) {
      std::vector<int> runs(static_cast<size_t>(loop % 17), 0);
      pool.parallel_for(loop % 17, [&](int64_t chunk, int) { ++runs[static_cast<size_t>(chunk)]; });
      for (int n : runs) BOOST_REQUIRE(n == 1);
    }
  }
}

BOOST_AUTO_TEST_CASE(what_a_body_throws_reaches_the_caller_and_the_pool_goes_on) {
  for (int threads : {1, 3}) {
    ThreadPool pool(threads);
    for (int loop = 0; loop < 50; ++loop) {
      std::atomic<int> runs{0};
      BOOST_CHECK_THROW(pool.parallel_for(40,
                                          [&](int64_t chunk, int) {
                                            ++runs;
                                            if (chunk % 10 == 7) throw std::bad_alloc();
                                          }),
                        std::bad_alloc);
      if (threads > 1) BOOST_REQUIRE(runs == 40);  // the others ran to their end
      std::atomic<int> after{0};
      pool.parallel_for(40, [&](int64_t, int) { ++after; });
      BOOST_REQUIRE(after == 40);
    }
  }
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // whose threads map memory of their own
BOOST_AUTO_TEST_CASE(threads_that_the_system_does_not_give_are_refused) {
  rlimit before{};
  BOOST_TEST_REQUIRE(::getrlimit(RLIMIT_AS, &before) == 0);
  uint64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  const rlimit few_stacks{pages * 4096 + (200 << 20), before.rlim_max};
  BOOST_TEST_REQUIRE(::setrlimit(RLIMIT_AS, &few_stacks) == 0);
  BOOST_CHECK_THROW(ThreadPool(200), convoy::InputError);
  BOOST_TEST(::setrlimit(RLIMIT_AS, &before) == 0);
  ThreadPool pool(3);  // and nobody is left over who takes another's chunks
  std::atomic<int> runs{0};
  pool.parallel_for(40, [&](int64_t, int) { ++runs; });
  BOOST_TEST(runs == 40);
}
#endif

BOOST_AUTO_TEST_CASE(workers_that_fell_asleep_take_part_again) {
  ThreadPool pool(3);
  for (int loop = 0; loop < 5; ++loop) {
    std::this_thread::sleep_for(20 * ThreadPool::spin_max);
    // Two chunks that each wait for the other to have begun need two threads at once.
    std::atomic<int> begun{0};
    pool.parallel_for(2, [&](int64_t, int) {
      ++begun;
      while (begun < 2) std::this_thread::yield();
    });
    BOOST_TEST(begun == 2);
  }
}

BOOST_AUTO_TEST_CASE(no_thread_number_is_used_by_two_threads_at_once) {
  ThreadPool pool(4);
  std::vector<std::atomic<int>> inside(4);
  std::atomic<int> clashes{0};
  for (int loop = 0; loop < 500; ++loop) {
    pool.parallel_for(32, [&](int64_t, int thread) {
      if (++inside[static_cast<size_t>(thread)] != 1) ++clashes;
      --inside[static_cast<size_t>(thread)];
    });
  }
  BOOST_TEST(clashes == 0);
}

namespace {

using convoy::test::cores_of;

/// The cores that each thread of a pool may use.
std::vector<std::set<int>> cores_of(ThreadPool& pool) {
  std::vector<std::set<int>> found(static_cast<size_t>(pool.threads()));
  std::atomic<int> begun{0};
  pool.parallel_for(pool.threads(), [&](int64_t, int thread) {
    ++begun;  // each takes one chunk, since nobody ends before all have begun
    while (begun < pool.threads()) std::this_thread::yield();
    found[static_cast<size_t>(thread)] = cores_of(pthread_self());
  });
  return found;
}

}  // namespace

BOOST_AUTO_TEST_CASE(as_many_threads_as_cores_get_one_each_while_the_pool_lives) {
  const auto all = cores_of(pthread_self());
  if (all.size() < 2) {
    BOOST_TEST_MESSAGE("skipped: one core");
    return;
  }
  {
    ThreadPool pool(static_cast<int>(all.size()));
    pool.bind();
    std::set<int> taken;
    for (const auto& own : cores_of(pool)) {
      BOOST_TEST(own.size() == 1u);
      taken.insert(own.begin(), own.end());
    }
    BOOST_TEST(taken == all, boost::test_tools::per_element());
  }
  BOOST_TEST(cores_of(pthread_self()) == all, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(fewer_or_more_threads_than_cores_are_left_to_the_system) {
  const auto all = cores_of(pthread_self());
  for (const size_t threads : {all.size() - 1, all.size() + 1}) {
    if (threads == 0) continue;
    ThreadPool pool(static_cast<int>(threads));
    pool.bind();
    for (const auto& own : cores_of(pool)) BOOST_TEST(own == all, boost::test_tools::per_element());
  }
}

BOOST_AUTO_TEST_CASE(a_count_of_threads_out_of_range_is_refused) {
  BOOST_CHECK_THROW(ThreadPool(0), convoy::InputError);
  BOOST_CHECK_THROW(ThreadPool(ThreadPool::threads_max + 1), convoy::InputError);
}
