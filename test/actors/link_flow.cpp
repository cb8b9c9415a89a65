// How much may be on its way: credits, queues, handles that come and go, and the end of a process's links.

#include <boost/test/unit_test.hpp>
#include <future>

#include "link_side.hpp"

using namespace rig;

namespace {

constexpr size_t quarter = 256 << 10;

/// Keeps the hidden states it gets until it is told to let go.
struct Hoard {
  void keep(Frame<msg::Activations> frame) {
    const std::lock_guard lock(mutex);
    frames.push_back(std::move(frame));
    ++received;
    changed.notify_all();
  }
  size_t let_go() {
    std::vector<Frame<msg::Activations>> gone;
    const std::lock_guard lock(mutex);
    gone.swap(frames);
    return gone.size();
  }
  bool wait_for(size_t count, std::chrono::milliseconds time = patience) {
    std::unique_lock lock(mutex);
    return changed.wait_for(lock, time, [&] { return received >= count; });
  }

  std::mutex mutex;
  std::condition_variable changed;
  std::vector<Frame<msg::Activations>> frames;
  size_t received = 0;
};

EchoActor::behavior_type hoarder(EchoActor::pointer, std::shared_ptr<Hoard> hoard) {
  return {[](const Frame<msg::Assign>&) {}, [](const Frame<msg::StepPlan>&) {},
          [hoard](const Frame<msg::Activations>& frame) { hoard->keep(frame); }};
}

struct Pair {
  explicit Pair(LinkOptions options = options_of()) : Pair(options, options) {}
  Pair(LinkOptions options, LinkOptions of_there)
      : here(system, std::move(options)),
        there(system, std::move(of_there), "there", 2),
        hoard_actor(system.spawn(hoarder, hoard)) {
    there.links.publish(Role::STAGE, 2, caf::actor_cast<caf::actor>(hoard_actor));
    here.links.connect("127.0.0.1", there.links.listen("127.0.0.1", 0), patience_ms);
    peer = here.up.wait().value();
    BOOST_REQUIRE(there.up.wait());
  }
  ~Pair() {
    hoard->let_go();
    caf::anon_send_exit(hoard_actor, caf::exit_reason::kill);
  }

  caf::actor_system_config config;
  caf::actor_system system{config};
  std::shared_ptr<Hoard> hoard = std::make_shared<Hoard>();
  Side here, there;
  EchoActor hoard_actor;
  PeerIdentity peer;
};

LinkOptions small_window() {
  LinkOptions options = options_of();
  options.limits.bulk_window_bytes = 4 * quarter + 4096;  // four frames with their heads
  options.limits.queue_bytes_max = 20 * quarter;
  return options;
}

/// The text of a down message's reason; "(none)" if none came.
template <class Handle>
std::string down_reason(caf::scoped_actor& self, const Handle& handle,
                        std::chrono::milliseconds time = patience) {
  std::string reason = "(none)";
  self->monitor(handle);
  self->receive([&](const caf::down_msg& message) { reason = caf::to_string(message.reason); },
                caf::after(time) >> [] {});
  return reason;
}

EchoActor::behavior_type sender_witness(EchoActor::pointer self, Slot<caf::strong_actor_ptr>* sender) {
  return {[](const Frame<msg::Assign>&) {},
          [sender, self](const Frame<msg::StepPlan>&) { sender->set(self->current_sender()); },
          [](const Frame<msg::Activations>&) {}};
}

}  // namespace

BOOST_AUTO_TEST_CASE(the_bulk_window_holds_until_actors_let_go) {
  Pair pair(small_window());
  const auto far = pair.here.links.remote<EchoActor>(pair.peer, Role::STAGE, 2);
  const auto hidden = activations(1, quarter);
  for (int i = 0; i < 12; ++i) mail(far, hidden);
  BOOST_REQUIRE(pair.hoard->wait_for(4));
  BOOST_CHECK(!pair.hoard->wait_for(5, 300ms));
  BOOST_CHECK_EQUAL(pair.hoard->let_go(), 4u);
  BOOST_REQUIRE(pair.hoard->wait_for(8));
  BOOST_CHECK(!pair.hoard->wait_for(9, 200ms));
  pair.hoard->let_go();
  BOOST_CHECK(pair.hoard->wait_for(12));
  BOOST_CHECK(!pair.here.down.wait(1ms));
}

// The receiver says what it released in eighths of the window: of its own larger one, that is never.
BOOST_AUTO_TEST_CASE(the_smaller_window_counts_at_both_ends) {
  auto wide = small_window();
  wide.limits.bulk_window_bytes = 64 * quarter;
  Pair pair(small_window(), wide);
  const auto far = pair.here.links.remote<EchoActor>(pair.peer, Role::STAGE, 2);
  for (int i = 0; i < 12; ++i) mail(far, activations(1, quarter));
  BOOST_REQUIRE(pair.hoard->wait_for(4));
  pair.hoard->let_go();
  BOOST_REQUIRE(pair.hoard->wait_for(8));
  pair.hoard->let_go();
  BOOST_CHECK(pair.hoard->wait_for(12));
}

BOOST_AUTO_TEST_CASE(the_smaller_frame_limit_counts_at_both_ends) {
  auto narrow = options_of();
  narrow.limits.control_frame_bytes_max = 4096;
  Pair pair(options_of(), narrow);
  FrameBuilder<msg::StepPlan> large;
  large->initEnds(4096);
  mail(pair.here.links.remote<EchoActor>(pair.peer, Role::STAGE, 2), std::move(large).finish());
  BOOST_CHECK(contains(pair.here.down.wait(), "to send, the limit is 4096"));
}

BOOST_AUTO_TEST_CASE(control_frames_that_nobody_takes_end_the_link) {
  auto options = options_of();
  options.limits.inbox_bytes_max = 1 << 20;
  Pair pair(options);
  std::promise<void> wake;
  const auto sleeper = pair.system.spawn<caf::detached>(
      [waits = wake.get_future().share()](EchoActor::pointer) -> EchoActor::behavior_type {
        return {[](const Frame<msg::Assign>&) {}, [waits](const Frame<msg::StepPlan>&) { waits.wait(); },
                [](const Frame<msg::Activations>&) {}};
      });
  pair.there.links.publish(Role::STAGE, 3, caf::actor_cast<caf::actor>(sleeper));
  const auto far = pair.here.links.remote<EchoActor>(pair.peer, Role::STAGE, 3);
  FrameBuilder<msg::StepPlan> large;
  large->initEnds(100 << 10);
  const auto frame = std::move(large).finish();
  for (int i = 0; i < 6; ++i) mail(far, frame);
  BOOST_CHECK(contains(pair.there.down.wait(), "inbox_bytes_max"));
  wake.set_value();
  end_and_wait(pair.system, sleeper);
}

BOOST_AUTO_TEST_CASE(a_frame_larger_than_the_window_goes_alone) {
  Pair pair(small_window());
  const auto far = pair.here.links.remote<EchoActor>(pair.peer, Role::STAGE, 2);
  mail(far, activations(1, 8 * quarter));
  mail(far, activations(2, quarter));
  BOOST_REQUIRE(pair.hoard->wait_for(1));
  BOOST_CHECK(!pair.hoard->wait_for(2, 200ms));
  pair.hoard->let_go();
  BOOST_CHECK(pair.hoard->wait_for(2));
}

BOOST_AUTO_TEST_CASE(a_full_queue_ends_the_link_with_its_reason) {
  Pair pair(small_window());
  const auto far = pair.here.links.remote<EchoActor>(pair.peer, Role::STAGE, 2);
  const auto hidden = activations(1, quarter);
  for (int i = 0; i < 30; ++i) mail(far, hidden);
  BOOST_CHECK(contains(pair.here.down.wait(), "queue_bytes_max"));
  BOOST_CHECK(pair.there.down.wait());
  caf::scoped_actor self(pair.system);
  BOOST_CHECK(contains(down_reason(self, far), "queue_bytes_max"));
}

BOOST_AUTO_TEST_CASE(a_frame_over_its_limit_ends_the_link_at_the_sender) {
  LinkOptions options = options_of();
  options.limits.control_frame_bytes_max = 4096;
  Pair pair(options);
  FrameBuilder<msg::StepPlan> large;
  large->initEnds(4096);
  mail(pair.here.links.remote<EchoActor>(pair.peer, Role::STAGE, 2), std::move(large).finish());
  BOOST_CHECK(contains(pair.here.down.wait(), "the limit is 4096"));
}

BOOST_AUTO_TEST_CASE(a_handle_on_nobody_goes_down) {
  Pair pair;
  caf::scoped_actor self(pair.system);
  const auto nobody = pair.here.links.remote<EchoActor>(pair.peer, Role::ROUTER, 42);
  BOOST_CHECK(contains(down_reason(self, nobody), "no such actor"));
  auto stranger = pair.peer;
  stranger.incarnation = 77;  // an earlier life of that process
  BOOST_CHECK(
      contains(down_reason(self, pair.here.links.remote<EchoActor>(stranger, Role::STAGE, 2)), "no link to"));
}

BOOST_AUTO_TEST_CASE(mail_has_the_peers_own_handle_as_its_sender) {
  Pair pair;
  Slot<caf::strong_actor_ptr> sender;
  const auto witness = pair.system.spawn(sender_witness, &sender);
  pair.there.links.publish(Role::STAGE, 3, caf::actor_cast<caf::actor>(witness));
  mail(pair.here.links.remote<EchoActor>(pair.peer, Role::STAGE, 3), plan(1));
  const auto seen = sender.wait();
  BOOST_REQUIRE(seen);
  const auto here = pair.there.up.wait().value();
  BOOST_CHECK(caf::actor_cast<caf::actor>(*seen) ==
              pair.there.links.remote<caf::actor>(here, here.role, here.instance));
  auto stranger = here;
  stranger.incarnation = 77;
  BOOST_CHECK(caf::actor_cast<caf::actor>(*seen) !=
              pair.there.links.remote<caf::actor>(stranger, here.role, here.instance));
  end_and_wait(pair.system, witness);
}

BOOST_AUTO_TEST_CASE(a_dead_actors_handle_goes_down_again_and_its_successor_can_be_reached) {
  Pair pair;
  caf::scoped_actor self(pair.system);
  const auto first = pair.here.links.remote<EchoActor>(pair.peer, Role::STAGE, 1);
  mail(first, die());
  BOOST_CHECK_NE(down_reason(self, first), "(none)");
  BOOST_CHECK_NE(down_reason(self, pair.here.links.remote<EchoActor>(pair.peer, Role::STAGE, 1)), "(none)");
  const auto successor = pair.system.spawn(echo, [to = pair.there.replies] { return to; });
  pair.there.links.publish(Role::STAGE, 1, caf::actor_cast<caf::actor>(successor));
  const auto second = pair.here.links.remote<EchoActor>(pair.peer, Role::STAGE, 1);
  BOOST_CHECK(second != first);
  mail(second, plan(5));
  BOOST_CHECK(pair.there.record->wait_for(1));
  caf::anon_send_exit(successor, caf::exit_reason::kill);
}

BOOST_AUTO_TEST_CASE(drop_ends_the_link_on_both_sides) {
  Pair pair;
  caf::scoped_actor self(pair.system);
  const auto far = pair.here.links.remote<EchoActor>(pair.peer, Role::STAGE, 1);
  auto stranger = pair.peer;
  stranger.incarnation = 77;
  pair.here.links.drop(stranger, "fenced");  // nobody: another incarnation
  BOOST_CHECK(!pair.here.down.wait(100ms));
  pair.here.links.drop(pair.peer, "fenced");
  BOOST_CHECK(contains(pair.here.down.wait(), "fenced"));
  BOOST_CHECK(pair.there.down.wait());
  BOOST_CHECK(contains(down_reason(self, far), "fenced"));
}

BOOST_AUTO_TEST_CASE(the_last_words_before_links_are_destroyed_arrive) {
  caf::actor_system_config config;
  caf::actor_system system{config};
  Side there(system, options_of(), "there", 2);
  const auto port = there.links.listen("127.0.0.1", 0);
  EchoActor far;
  {
    Side here(system);
    here.links.connect("127.0.0.1", port, patience_ms);
    far = here.links.remote<EchoActor>(here.up.wait().value(), Role::STAGE, 1);
    for (uint64_t step = 0; step < 100; ++step) mail(far, plan(step));
  }
  BOOST_CHECK(there.record->wait_for(100));
  mail(far, plan(100));  // the handle outlives its Links and is silent
  caf::scoped_actor self(system);
  BOOST_CHECK_NE(down_reason(self, far), "(none)");
}

// A node connects again when its link to the head ends, and it may be its own end that does that.
BOOST_AUTO_TEST_CASE(an_event_may_use_the_links_that_are_closing) {
  caf::actor_system_config config;
  caf::actor_system system{config};
  Side there(system, options_of(), "there", 2);
  const auto port = there.links.listen("127.0.0.1", 0);
  Slot<PeerIdentity> up;
  int downs = 0;
  std::unique_ptr<Links> here;
  here = std::make_unique<Links>(system, options_of(), identity("here", Role::NODE, 0, 1),
                                 Links::Events{.up = [&](const PeerIdentity& peer) { up.set(peer); },
                                               .down =
                                                   [&](const PeerIdentity&, const std::string&) {
                                                     ++downs;
                                                     here->connect("127.0.0.1", port, 3'600'000);
                                                   },
                                               .refused = {}});
  here->connect("127.0.0.1", port, patience_ms);
  BOOST_REQUIRE(up.wait());
  here->close();  // does not wait until that connection is given up
  BOOST_CHECK_EQUAL(downs, 1);
  here->close();  // again: nothing is left to do
  here.reset();
}
