// Where a stage computes: the threads that move, and what keeps them from it.

#include "gpu/cpu/stage_place.hpp"

#include <boost/test/unit_test.hpp>
#include <functional>
#include <future>
#include <thread>

#include "test/cores.hpp"

using convoy::gpu::StagePlace;
using convoy::test::cores_of;
using namespace std::chrono_literals;

namespace {

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
    const std::set<int> before = cores_of(pthread_self());
    const int last = *before.rbegin();
    convoy::test::SleepingThread io;
    StagePlace place({pthread_self(), io.id()});
    BOOST_CHECK(!place.core());
    place.stay_on(last);
    BOOST_CHECK(place.core() == last);
    BOOST_CHECK(cores_of(pthread_self()) == std::set{last});
    BOOST_CHECK(io.cores() == std::set{last});
    BOOST_CHECK(StagePlace::here() == last);
    place.stay_on(std::nullopt);
    BOOST_CHECK(!place.core());
    BOOST_CHECK(cores_of(pthread_self()) == before);
    BOOST_CHECK(io.cores() == before);
  });
}

BOOST_AUTO_TEST_CASE(a_stage_that_was_displaced_leaves_it_to_the_system_for_one_step) {
  on_a_thread([] {
    const std::set<int> before = cores_of(pthread_self());
    StagePlace place({pthread_self()});
    BOOST_REQUIRE(settles_on(place, *before.begin()));
    step_of(place, 5ms);  // asleep or displaced: either way not on its core
    place.stay_on(*before.begin());
    BOOST_CHECK(!place.core());
    BOOST_CHECK(cores_of(pthread_self()) == before);
    BOOST_CHECK(settles_on(place, *before.begin()));
  });
}

BOOST_AUTO_TEST_CASE(a_core_that_a_thread_may_not_use_moves_nobody) {
  on_a_thread([] {
    const std::set<int> before = cores_of(pthread_self());
    StagePlace place({pthread_self()});
    for (const int core : {-2, *before.rbegin() + 1, CPU_SETSIZE, 1 << 30}) {
      place.stay_on(core);
      BOOST_CHECK(!place.core());
      BOOST_CHECK(cores_of(pthread_self()) == before);
    }
  });
}

BOOST_AUTO_TEST_CASE(a_stage_without_threads_to_move_stays_where_it_is) {
  on_a_thread([] {
    const std::set<int> before = cores_of(pthread_self());
    StagePlace place({});
    place.stay_on(*before.begin());
    step_of(place, 0ms);
    BOOST_CHECK(!place.core());
    BOOST_CHECK(cores_of(pthread_self()) == before);
  });
}
