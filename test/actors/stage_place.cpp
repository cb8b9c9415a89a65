// Where a stage computes: the threads that move, and what keeps them from it.

#include "actors/stage_place.hpp"

#include <boost/test/unit_test.hpp>
#include <functional>
#include <future>
#include <thread>
#include <vector>

using convoy::actors::StagePlace;
using namespace std::chrono_literals;

namespace {

std::vector<int> cores_of(pthread_t thread) {
  cpu_set_t set;
  BOOST_REQUIRE_EQUAL(pthread_getaffinity_np(thread, sizeof(set), &set), 0);
  std::vector<int> cores;
  for (int core = 0; core < CPU_SETSIZE; ++core)
    if (CPU_ISSET(core, &set)) cores.push_back(core);
  return cores;
}

/// A test may move its thread: one of its own.
void on_a_thread(const std::function<void()>& test) { std::async(std::launch::async, test).get(); }

void step_of(StagePlace& place, std::chrono::milliseconds away) {
  place.begin();
  std::this_thread::sleep_for(away);
  place.end();
}

/// Steps until one was not displaced: other programs may use this machine.
bool settles_on(StagePlace& place, int core) {
  for (int tries = 0; tries < 1000 && place.core() != core; ++tries) {
    step_of(place, 0ms);
    place.stay_on(core);
  }
  return place.core() == core;
}

}  // namespace

BOOST_AUTO_TEST_CASE(the_threads_of_a_stage_stay_on_one_core_until_they_are_let_go) {
  on_a_thread([] {
    const std::vector<int> before = cores_of(pthread_self());
    std::promise<void> end;
    std::thread io([ended = end.get_future()]() mutable { ended.get(); });
    StagePlace place({pthread_self(), io.native_handle()});
    BOOST_CHECK(!place.core());
    place.stay_on(before.back());
    BOOST_CHECK(place.core() == before.back());
    BOOST_CHECK(cores_of(pthread_self()) == std::vector{before.back()});
    BOOST_CHECK(cores_of(io.native_handle()) == std::vector{before.back()});
    BOOST_CHECK(StagePlace::here() == before.back());
    place.stay_on(std::nullopt);
    BOOST_CHECK(!place.core());
    BOOST_CHECK(cores_of(pthread_self()) == before);
    BOOST_CHECK(cores_of(io.native_handle()) == before);
    end.set_value();
    io.join();
  });
}

BOOST_AUTO_TEST_CASE(a_stage_that_was_displaced_leaves_it_to_the_system_for_one_step) {
  on_a_thread([] {
    const std::vector<int> before = cores_of(pthread_self());
    StagePlace place({pthread_self()});
    BOOST_REQUIRE(settles_on(place, before.front()));
    step_of(place, 5ms);  // asleep or displaced: either way not on its core
    place.stay_on(before.front());
    BOOST_CHECK(!place.core());
    BOOST_CHECK(cores_of(pthread_self()) == before);
    BOOST_CHECK(settles_on(place, before.front()));
  });
}

BOOST_AUTO_TEST_CASE(a_core_that_a_thread_may_not_use_moves_nobody) {
  on_a_thread([] {
    const std::vector<int> before = cores_of(pthread_self());
    StagePlace place({pthread_self()});
    for (const int core : {-2, before.back() + 1, CPU_SETSIZE, 1 << 30}) {
      place.stay_on(core);
      BOOST_CHECK(!place.core());
      BOOST_CHECK(cores_of(pthread_self()) == before);
    }
  });
}

BOOST_AUTO_TEST_CASE(a_stage_without_threads_to_move_stays_where_it_is) {
  on_a_thread([] {
    const std::vector<int> before = cores_of(pthread_self());
    StagePlace place({});
    place.stay_on(before.front());
    step_of(place, 0ms);
    BOOST_CHECK(!place.core());
    BOOST_CHECK(cores_of(pthread_self()) == before);
  });
}
