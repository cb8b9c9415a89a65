// The watch over a process's actors: what it makes of one that ends.

#include "cli/actor_watch.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <boost/test/unit_test.hpp>

#include "actors/messages.hpp"
#include "actors/process/log.hpp"
#include "cli/runtime.hpp"

using namespace convoy;
using namespace convoy::cli;

namespace {

enum class Fate { fails, quits, throws, lives };

/// An actor that meets its fate with its first mail.
caf::behavior mortal(caf::event_based_actor* self, Fate fate) {
  return {[=](int) {
    if (fate == Fate::throws) throw std::runtime_error("a fault of ours");
    if (fate == Fate::fails) self->quit(caf::make_error(caf::sec::runtime_error, "a fault of ours"));
    if (fate == Fate::quits) self->quit();
  }};
}

/// The exit code of a process that runs as a node does: until it is told to end, or for a while.
int exit_code_of_a_process(Fate fate, bool dead_before = false) {
  const pid_t pid = fork();
  if (pid == 0) {
    log::configure("error", false, "");
    block_signals();
    ActorWatch watch;
    ActorSystemConfig config;
    caf::actor_system system(config);
    const caf::actor actor = system.spawn(mortal, fate);
    if (!dead_before) watch.hold(actor, "mortal");
    caf::anon_send(actor, 1);
    if (dead_before) {
      caf::scoped_actor self(system);
      self->wait_for(actor);
      watch.hold(actor, "mortal");
    }
    log::LogFile log("", {});
    int seconds = 0;
    tend_until_told(log, [&] { return fate != Fate::lives && ++seconds < 60; });
    watch.let_go();
    actors::end_and_wait(system, actor);
    _exit(watch.exit_code(seconds < 60 ? ok : failed));
  }
  int status = 0;
  BOOST_REQUIRE_EQUAL(waitpid(pid, &status, 0), pid);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_process_whose_actor_ends_before_its_time_ends_with_an_internal_fault) {
  for (const Fate fate : {Fate::fails, Fate::throws, Fate::quits})
    BOOST_CHECK_EQUAL(exit_code_of_a_process(fate), internal);
}

BOOST_AUTO_TEST_CASE(an_actor_that_ended_before_it_was_held_is_noticed) {
  BOOST_CHECK_EQUAL(exit_code_of_a_process(Fate::fails, true), internal);
}

BOOST_AUTO_TEST_CASE(actors_that_end_because_their_process_does_are_no_fault) {
  BOOST_CHECK_EQUAL(exit_code_of_a_process(Fate::lives), ok);
}
