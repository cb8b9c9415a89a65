// Peers that are wrong, old, greedy or malicious: links to them end with a reason, the process and its other
// links live on.

#include <atomic>
#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>
#include <random>

#include "link_raw.hpp"
#include "link_side.hpp"
#include "model/error.hpp"

using namespace rig;

namespace {

LinkOptions patient() {
  LinkOptions options{.cluster = "test"};
  options.limits.lease_ms = 10'000;  // raw peers send no leases
  return options;
}

/// A link still works: somebody decent connects and gets an answer.
void check_alive(caf::actor_system& system, uint16_t port) {
  Side decent(system, {.cluster = "test"}, "decent", 1000 + port);
  decent.links.connect("127.0.0.1", port, 5000);
  const auto peer = decent.up.wait();
  BOOST_REQUIRE(peer);
  const auto stage = decent.links.remote<EchoActor>(*peer, Role::STAGE, 1);
  caf::scoped_actor self(system);
  self->monitor(stage);
  mail(stage, die());
  bool down = false;
  self->receive([&](const caf::down_msg&) { down = true; }, caf::after(5s) >> [] {});
  BOOST_CHECK(down);
}

}  // namespace

BOOST_FIXTURE_TEST_SUITE(handshake, Fixture)

BOOST_AUTO_TEST_CASE(another_cluster_is_refused_with_both_names) {
  Side here(system), there(system, {.cluster = "other"}, "there", 2);
  const auto begin = Clock::now();
  there.links.connect("127.0.0.1", here.links.listen("127.0.0.1", 0), 10'000);
  const auto reason = there.refused.wait();
  BOOST_CHECK(contains(reason, "\"other\""));
  BOOST_CHECK(contains(reason, "\"test\""));
  BOOST_CHECK(Clock::now() - begin < 5s);  // trying again would not help
  BOOST_CHECK(!here.up.wait(50ms));
}

BOOST_AUTO_TEST_CASE(another_protocol_version_is_refused_with_both_versions) {
  Side here(system);
  RawConnection raw(here.links.listen("127.0.0.1", 0));
  auto hello = raw_greeting(false);
  hello.protocol_version = wire::protocol_version + 1;
  BOOST_REQUIRE(raw.send(wire::encode(hello)));
  const auto [type, bytes] = raw.receive();
  BOOST_REQUIRE_EQUAL(type, FrameTraits<msg::HelloRefused>::type_id);
  const Frame<msg::HelloRefused> frame(bytes);
  const Reading refused(frame);
  BOOST_CHECK_EQUAL(refused->getReason().cStr(), "protocol version 3 there, 2 here");
  BOOST_CHECK(!refused->getRetry());
  BOOST_CHECK(raw.closed());
}

BOOST_AUTO_TEST_CASE(nothing_but_a_hello_is_read_before_the_handshake) {
  Side here(system, patient());
  const auto port = here.links.listen("127.0.0.1", 0);
  RawConnection raw(port);
  raw.send(plan(1), Role::STAGE, 1);
  BOOST_CHECK(raw.closed());
  RawConnection greedy(port);  // within a control frame's limit, but not a Hello's
  const auto head = wire::encode(wire::Header{1, Role::NONE, 0, wire::hello_bytes_max + 8});
  greedy.send(head.data(), head.size());
  BOOST_CHECK(greedy.closed());
  BOOST_CHECK_EQUAL(here.record->steps().size(), 0u);
  check_alive(system, port);
}

BOOST_AUTO_TEST_CASE(who_says_nothing_is_closed_after_handshake_timeout_ms) {
  auto options = patient();
  options.limits.handshake_timeout_ms = 200;
  Side here(system, options);
  const auto port = here.links.listen("127.0.0.1", 0);
  RawConnection silent(port), half(port);
  BOOST_REQUIRE(half.send(wire::encode(raw_greeting(false))));  // and never its bulk connection
  BOOST_CHECK(silent.closed());
  BOOST_CHECK(half.closed());
  BOOST_CHECK(!here.up.wait(50ms));
}

BOOST_AUTO_TEST_CASE(a_bulk_connection_without_control_is_refused) {
  Side here(system);
  RawConnection raw(here.links.listen("127.0.0.1", 0));
  BOOST_REQUIRE(raw.send(wire::encode(raw_greeting(true))));
  BOOST_CHECK_EQUAL(raw.receive().first, FrameTraits<msg::HelloRefused>::type_id);
}

BOOST_AUTO_TEST_CASE(plaintext_stays_on_loopback) {
  Side here(system);
  BOOST_CHECK_THROW(here.links.listen("0.0.0.0", 0), convoy::InputError);
  BOOST_CHECK_THROW(here.links.listen("10.1.2.3", 0), convoy::InputError);
  here.links.connect("10.1.2.3", 80, 5000);
  BOOST_CHECK(contains(here.refused.wait(), "loopback"));
  BOOST_CHECK_THROW(Side(system, {.cluster = "test", .dev = false}), convoy::InputError);
}

BOOST_AUTO_TEST_CASE(a_port_in_use_is_an_input_error) {
  Side here(system), there(system);
  const auto port = here.links.listen("127.0.0.1", 0);
  BOOST_CHECK_EXCEPTION(
      there.links.listen("127.0.0.1", port), convoy::InputError,
      [&](const convoy::InputError& e) { return e.where() == "127.0.0.1:" + std::to_string(port); });
}

BOOST_AUTO_TEST_CASE(nobody_listening_is_refused_after_give_up_ms) {
  Side here(system);
  const uint16_t port = free_port(system);
  const auto begin = Clock::now();
  here.links.connect("127.0.0.1", port, 300);
  BOOST_CHECK(here.refused.wait());
  BOOST_CHECK(Clock::now() - begin >= 100ms);
}

BOOST_AUTO_TEST_CASE(a_connect_waits_for_its_listener) {
  Side here(system), there(system, {.cluster = "test"}, "there", 2);
  const auto port = here.links.listen("127.0.0.1", 0);
  Side late(system, {.cluster = "test"}, "late", 3);
  const uint16_t later = free_port(system);
  there.links.connect("127.0.0.1", later, 10'000);
  BOOST_CHECK(!there.up.wait(200ms));
  late.links.listen("127.0.0.1", later);
  BOOST_CHECK(there.up.wait());
  BOOST_CHECK_NE(port, 0);
}

BOOST_AUTO_TEST_CASE(links_max_holds) {
  LinkOptions options{.cluster = "test"};
  options.limits.links_max = 1;
  Side here(system, options), first(system, {.cluster = "test"}, "first", 2),
      second(system, {.cluster = "test"}, "second", 3);
  const auto port = here.links.listen("127.0.0.1", 0);
  first.links.connect("127.0.0.1", port, 5000);
  BOOST_REQUIRE(first.up.wait());
  second.links.connect("127.0.0.1", port, 300);
  BOOST_CHECK(contains(second.refused.wait(), "links_max = 1"));
  BOOST_CHECK(!second.up.wait(50ms));
}

BOOST_AUTO_TEST_CASE(a_process_is_linked_once) {
  Side here(system), there(system, {.cluster = "test"}, "there", 2);
  const auto port = here.links.listen("127.0.0.1", 0);
  there.links.connect("127.0.0.1", port, 5000);
  BOOST_REQUIRE(there.up.wait());
  there.links.connect("127.0.0.1", port, 100);
  BOOST_CHECK(!there.refused.wait(200ms));  // there is nothing left to do
  BOOST_CHECK(!there.down.wait(50ms));
}

BOOST_DATA_TEST_CASE_F(Fixture, two_that_connect_to_each_other_end_with_one_link,
                       boost::unit_test::data::make({false, true}), unix_sockets) {
  const LinkOptions options{.cluster = "test", .unix_sockets = unix_sockets};
  for (int round = 0; round < 10; ++round) {
    Side here(system, options), there(system, options, "there", 2);
    const auto here_port = here.links.listen("127.0.0.1", 0), there_port = there.links.listen("127.0.0.1", 0);
    here.links.connect("127.0.0.1", there_port, 400);
    there.links.connect("127.0.0.1", here_port, 400);
    const auto peer = here.up.wait();
    BOOST_REQUIRE(peer);
    BOOST_REQUIRE(there.up.wait());
    BOOST_CHECK(!here.down.wait(20ms));
    BOOST_CHECK_EQUAL(unix_connections(here_port) + unix_connections(there_port) > 0, unix_sockets);
    const auto stage = here.links.remote<EchoActor>(*peer, Role::STAGE, 1);
    mail(stage, plan(1));
    BOOST_CHECK(there.record->wait_for(1));  // its echo answers to its own recorder
    if (round < 9) continue;
    BOOST_CHECK(!here.refused.wait(450ms));  // neither goes on to try and then gives up
    BOOST_CHECK(!there.refused.wait(1ms));
  }
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_FIXTURE_TEST_SUITE(frames, Fixture)

BOOST_AUTO_TEST_CASE(a_bad_frame_ends_its_link_with_a_reason) {
  struct Case {
    const char* reason;
    std::function<void(RawPeer&)> act;
  };
  auto header = [](uint16_t type, uint64_t bytes) {
    return wire::encode(wire::Header{type, Role::STAGE, 1, bytes});
  };
  const std::vector<Case> cases{
      {"the limit is 1048576",
       [&](RawPeer& raw) { raw.control.send(header(32, 2 << 20).data(), wire::header_bytes); }},
      {"the limit is 67108864",
       [&](RawPeer& raw) { raw.bulk.send(header(33, 1ull << 40).data(), wire::header_bytes); }},
      {"truncated frame: 0 of 4096",
       [&](RawPeer& raw) {
         raw.control.send(header(32, 4096).data(), wire::header_bytes);
         raw.control.close();
       }},
      {"truncated header: 5 bytes",
       [&](RawPeer& raw) {
         raw.control.send("CNVY\1", 5);
         raw.control.close();
       }},
      {"not a frame's header", [](RawPeer& raw) { raw.control.send(std::string(64, 'x').data(), 64); }},
      {"header version 2",
       [&](RawPeer& raw) {
         auto bytes = header(32, 64);
         bytes[4] = std::byte{2};
         raw.control.send(bytes.data(), bytes.size());
       }},
      {"type 5000 is out of range", [&](RawPeer& raw) { raw.control.send(uint16_t{5000}, plan(1).bytes()); }},
      {"unexpected link frame of type 15",
       [&](RawPeer& raw) { raw.control.send(uint16_t{15}, plan(1).bytes()); }},
      {"unexpected link frame of type 1",
       [](RawPeer& raw) { raw.control.send(wire::encode(raw_greeting(false))); }},
      {"on the bulk connection", [&](RawPeer& raw) { raw.bulk.send(uint16_t{3}, plan(1).bytes()); }},
      {"wrong connection", [](RawPeer& raw) { raw.control.send(activations(1, 64), Role::STAGE, 1); }},
      {"a credit for more bytes",
       [](RawPeer& raw) {
         FrameBuilder<msg::Credit> credit;
         credit->setBytes(1);
         raw.control.send(std::move(credit).finish());
       }},
      {"malformed StepPlan",
       [](RawPeer& raw) {
         auto broken = std::make_shared<convoy::schema::FrameBuffer>(plan(1).bytes()->size());
         std::memcpy(broken->data(), plan(1).bytes()->data(), broken->size());
         std::memset(broken->data() + 16, 0x7f, broken->size() - 16);
         raw.control.send(uint16_t{32}, broken, Role::STAGE, 1);
       }},
      {"closed by the peer", [](RawPeer& raw) { raw.bulk.close(); }},
  };
  for (const auto& [reason, act] : cases) {
    BOOST_TEST_CONTEXT(reason) {
      Side here(system, patient());
      const auto port = here.links.listen("127.0.0.1", 0);
      RawPeer raw(port);
      BOOST_REQUIRE(here.up.wait());
      act(raw);
      BOOST_CHECK(contains(here.down.wait(), reason));
      check_alive(system, port);
    }
  }
}

BOOST_AUTO_TEST_CASE(a_newer_peers_message_type_is_dropped_and_the_link_goes_on) {
  Side here(system, patient());
  RawPeer raw(here.links.listen("127.0.0.1", 0));
  BOOST_REQUIRE(raw.control.send(uint16_t{900}, plan(1).bytes(), Role::STAGE, 1));
  BOOST_REQUIRE(raw.bulk.send(uint16_t{901}, plan(1).bytes(), Role::STAGE, 1));
  BOOST_REQUIRE(raw.control.send(plan(2), Role::STAGE, 1));
  BOOST_REQUIRE(here.record->wait_for(1));
  BOOST_CHECK_EQUAL(here.record->steps().at(0), 2u);
  BOOST_CHECK(!here.down.wait(50ms));
}

BOOST_AUTO_TEST_CASE(mail_to_nobody_is_dropped_and_the_link_goes_on) {
  Side here(system, patient());
  RawPeer raw(here.links.listen("127.0.0.1", 0));
  BOOST_REQUIRE(raw.control.send(plan(1), Role::STAGE, 77));
  BOOST_REQUIRE(raw.control.send(uint16_t{32}, plan(1).bytes(), static_cast<Role>(500), 1));
  BOOST_REQUIRE(raw.control.send(plan(2), Role::STAGE, 1));
  BOOST_CHECK(here.record->wait_for(1));
}

BOOST_AUTO_TEST_CASE(random_bytes_at_the_listener_harm_nobody) {
  auto options = patient();
  options.limits.handshake_timeout_ms = 100;
  Side here(system, options);
  const auto port = here.links.listen("127.0.0.1", 0);
  const auto hello = wire::encode(raw_greeting(false));
  for (unsigned seed = 0; seed < 300; ++seed) {
    BOOST_TEST_CONTEXT("seed " << seed) {
      std::mt19937_64 random(seed);
      std::vector<std::byte> bytes(wire::header_bytes + hello.bytes()->size() + random() % 200);
      for (auto& byte : bytes) byte = std::byte(random());
      if (seed % 3 != 0) {  // a good start, then a few bits flipped or an early end
        const auto head = wire::encode(wire::Header{1, Role::NONE, 0, hello.bytes()->size()});
        std::memcpy(bytes.data(), head.data(), head.size());
        std::memcpy(bytes.data() + head.size(), hello.bytes()->data(), hello.bytes()->size());
        const size_t reach = seed % 3 == 1 ? bytes.size() : head.size();
        for (int flips = 0; flips < 4; ++flips) bytes[random() % reach] ^= std::byte(1u << random() % 8);
        if (seed % 2 == 0) bytes.resize(random() % bytes.size());
      }
      RawConnection raw(port);
      raw.send(bytes.data(), bytes.size());
      if (seed % 2 == 0) raw.close();
    }
  }
  check_alive(system, port);
}

BOOST_AUTO_TEST_CASE(random_frames_of_an_accepted_peer_never_reach_an_actor_broken) {
  Side here(system, patient());
  const auto port = here.links.listen("127.0.0.1", 0);
  for (unsigned seed = 0; seed < 100; ++seed) {
    BOOST_TEST_CONTEXT("seed " << seed) {
      std::mt19937_64 random(seed);
      RawPeer raw(port, 100 + seed);
      for (int frame = 0; frame < 20; ++frame) {
        const convoy::schema::FrameBytes good = random() % 2 ? plan(1).bytes() : die().bytes();
        auto bytes = std::make_shared<convoy::schema::FrameBuffer>(good->size());
        std::memcpy(bytes->data(), good->data(), bytes->size());
        for (int flips = 0; flips < 4; ++flips)
          bytes->data()[8 + random() % (bytes->size() - 8)] ^= std::byte(1u << random() % 8);
        if (!raw.control.send(uint16_t{32}, bytes, Role::STAGE, 1)) break;
      }
    }
    BOOST_REQUIRE(here.down.wait());
  }
  // The echo reads every plan it gets: a broken one would have thrown and ended it.
  std::atomic<bool> ended = false;
  here.echo_actor->attach_functor([&ended](const caf::error&) { ended = true; });
  BOOST_CHECK(!ended);
  check_alive(system, port);
}

BOOST_AUTO_TEST_SUITE_END()
