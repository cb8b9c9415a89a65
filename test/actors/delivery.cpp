// Delivery: an actor that mail wakes runs on the thread that received it, and not for long.

#include "actors/link/delivery.hpp"

#include <boost/test/unit_test.hpp>
#include <thread>

#include "link_rig.hpp"

using namespace rig;

namespace {

using Witness = caf::typed_actor<caf::reacts_to<Frame<msg::StepPlan>>>;

/// On which threads messages ran.
struct Places {
  void note() {
    const std::lock_guard lock(mutex);
    threads.push_back(std::this_thread::get_id());
    changed.notify_all();
  }
  size_t here() {
    const std::lock_guard lock(mutex);
    return static_cast<size_t>(std::count(threads.begin(), threads.end(), std::this_thread::get_id()));
  }
  bool wait_for(size_t count) {
    std::unique_lock lock(mutex);
    return changed.wait_for(lock, convoy::test::patience, [&] { return threads.size() >= count; });
  }
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<std::thread::id> threads;
};

struct Told {
  std::shared_ptr<Places> places;
  uint64_t to_itself = 0;  // so much mail when it gets step 0
  Witness next;            // gets what it gets, if there is one
};

constexpr uint64_t quit_step = 99;

Witness::behavior_type witness(Witness::pointer self, Told told) {
  return {[self, told](const Frame<msg::StepPlan>& frame) {
    told.places->note();
    const uint64_t step = Reading(frame)->getStep();
    if (step == quit_step) self->quit();
    if (step == 0)
      for (uint64_t i = 0; i < told.to_itself; ++i) self->send(self, plan(1));
    if (told.next) self->send(told.next, frame);
  }};
}

/// How many hold it: an actor that nobody runs and nobody mails is held by its test alone.
size_t holders(const Witness& actor) {
  return caf::actor_cast<caf::strong_actor_ptr>(actor)->strong_refs - 1;  // the one that asks
}

struct Fixture {
  void deliver(const Witness& to, uint64_t step) {
    delivery.deliver(*frame_type(convoy::schema::FrameTraits<msg::StepPlan>::type_id),
                     caf::actor_cast<caf::actor>(to), nullptr, plan(step).bytes());
  }

  caf::actor_system_config config;
  caf::actor_system system{config};
  Delivery delivery{system};
  std::shared_ptr<Places> places = std::make_shared<Places>();
};

}  // namespace

// Lazily initialised actors wait for mail from the beginning, as those of a cluster do between two tokens.
BOOST_FIXTURE_TEST_SUITE(delivery, Fixture)

BOOST_AUTO_TEST_CASE(who_waits_for_mail_runs_on_the_thread_that_delivers_it) {
  const auto actor = system.spawn<caf::lazy_init>(witness, Told{places});
  for (uint64_t step = 1; step <= 3; ++step) {
    deliver(actor, step);
    BOOST_CHECK_EQUAL(places->here(), step);  // before deliver() returned
    BOOST_CHECK_EQUAL(holders(actor), 1u);
  }
  end_and_wait(system, actor);
}

BOOST_AUTO_TEST_CASE(whom_it_mails_in_turn_runs_there_too) {
  const auto last = system.spawn<caf::lazy_init>(witness, Told{places});
  const auto first = system.spawn<caf::lazy_init>(witness, Told{places, 0, last});
  deliver(first, 1);
  BOOST_CHECK_EQUAL(places->here(), 2u);
  end_and_wait(system, first, last);
}

BOOST_AUTO_TEST_CASE(one_with_much_mail_goes_on_in_the_scheduler) {
  const auto actor = system.spawn<caf::lazy_init>(witness, Told{places, 200});
  deliver(actor, 0);
  BOOST_CHECK_GE(places->here(), 1u);
  BOOST_CHECK_LE(places->here(), 16u);
  BOOST_CHECK(places->wait_for(201));
  BOOST_CHECK_LE(places->here(), 16u);
  end_and_wait(system, actor);
}

BOOST_AUTO_TEST_CASE(a_detached_one_keeps_its_own_thread) {
  const auto actor = system.spawn<caf::detached>(witness, Told{places});
  deliver(actor, 1);
  BOOST_CHECK(places->wait_for(1));
  BOOST_CHECK_EQUAL(places->here(), 0u);
  end_and_wait(system, actor);
}

BOOST_AUTO_TEST_CASE(one_that_ends_by_its_mail_is_let_go) {
  {
    const auto actor = system.spawn<caf::lazy_init>(witness, Told{places});
    BOOST_CHECK_EQUAL(places.use_count(), 2);
    deliver(actor, quit_step);
    BOOST_CHECK_EQUAL(holders(actor), 1u);
  }
  BOOST_CHECK_EQUAL(places->here(), 1u);
  BOOST_CHECK_EQUAL(places.use_count(), 1);
}

BOOST_AUTO_TEST_SUITE_END()
