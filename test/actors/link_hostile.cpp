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
  LinkOptions options = options_of();
  options.limits.lease_ms = 10'000;  // raw peers send no leases
  return options;
}

/// A link still works: somebody decent connects and gets an answer.
void check_alive(caf::actor_system& system, uint16_t port) {
  Side decent(system, options_of(), "decent", 1000 + port);
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
  Side here(system), there(system, options_of("other"), "there", 2);
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
  hello.versions = {wire::our_versions.newest + 1, wire::our_versions.newest + 2};
  const auto [type, bytes] = raw.say_hello(hello);
  BOOST_REQUIRE_EQUAL(type, FrameTraits<msg::HelloRefused>::type_id);
  const Frame<msg::HelloRefused> frame(bytes);
  const Reading refused(frame);
  BOOST_CHECK(contains(std::string(refused->getReason().cStr()), "protocol versions 4 to 5 there, 3 here"));
  BOOST_CHECK(!refused->getRetry());
  BOOST_CHECK(raw.closed());
}

BOOST_AUTO_TEST_CASE(a_newer_version_that_still_speaks_ours_is_linked) {
  Side here(system);
  const auto port = here.links.listen("127.0.0.1", 0);
  RawConnection control(port), bulk(port);
  for (auto* connection : {&control, &bulk}) {
    auto hello = raw_greeting(connection == &bulk);
    hello.versions = {1, wire::our_versions.newest + 7};
    BOOST_REQUIRE_EQUAL(connection->say_hello(hello).first, FrameTraits<msg::Hello>::type_id);
  }
  BOOST_CHECK(here.up.wait());
}

BOOST_AUTO_TEST_CASE(nothing_but_a_hello_is_read_before_the_handshake) {
  Side here(system, patient());
  const auto port = here.links.listen("127.0.0.1", 0);
  RawConnection raw(port);
  raw.send(plan(1), Role::STAGE, 1);
  BOOST_CHECK(raw.closed());
  RawConnection early(port);  // a Hello without a challenge is not one
  early.send(wire::encode(raw_greeting(false)));
  BOOST_CHECK(early.closed());
  BOOST_CHECK(early.heard().empty());
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
  BOOST_REQUIRE_EQUAL(half.say_hello(raw_greeting(false)).first,
                      FrameTraits<msg::Hello>::type_id);  // and never its bulk connection
  BOOST_CHECK(silent.closed());
  BOOST_CHECK(half.closed());
  BOOST_CHECK(!here.up.wait(50ms));
}

BOOST_AUTO_TEST_CASE(a_bulk_connection_without_control_is_refused) {
  Side here(system);
  RawConnection raw(here.links.listen("127.0.0.1", 0));
  BOOST_CHECK_EQUAL(raw.say_hello(raw_greeting(true)).first, FrameTraits<msg::HelloRefused>::type_id);
}

BOOST_AUTO_TEST_CASE(plaintext_stays_on_loopback) {
  Side here(system);
  BOOST_CHECK_THROW(here.links.listen("0.0.0.0", 0), convoy::InputError);
  BOOST_CHECK_THROW(here.links.listen("10.1.2.3", 0), convoy::InputError);
  here.links.connect("10.1.2.3", 80, 5000);
  BOOST_CHECK(contains(here.refused.wait(), "loopback"));
  auto options = options_of();
  options.dev = false;
  BOOST_CHECK_THROW(Side(system, options), convoy::InputError);
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
  Side here(system), there(system, options_of(), "there", 2);
  const auto port = here.links.listen("127.0.0.1", 0);
  Side late(system, options_of(), "late", 3);
  const uint16_t later = free_port(system);
  there.links.connect("127.0.0.1", later, 10'000);
  BOOST_CHECK(!there.up.wait(200ms));
  late.links.listen("127.0.0.1", later);
  BOOST_CHECK(there.up.wait());
  BOOST_CHECK_NE(port, 0);
}

BOOST_AUTO_TEST_CASE(links_max_holds) {
  LinkOptions options = options_of();
  options.limits.links_max = 1;
  Side here(system, options), first(system, options_of(), "first", 2),
      second(system, options_of(), "second", 3);
  const auto port = here.links.listen("127.0.0.1", 0);
  first.links.connect("127.0.0.1", port, 5000);
  BOOST_REQUIRE(first.up.wait());
  second.links.connect("127.0.0.1", port, 300);
  BOOST_CHECK(contains(second.refused.wait(), "links_max = 1"));
  BOOST_CHECK(!second.up.wait(50ms));
}

BOOST_AUTO_TEST_CASE(a_process_is_linked_once) {
  Side here(system), there(system, options_of(), "there", 2);
  const auto port = here.links.listen("127.0.0.1", 0);
  there.links.connect("127.0.0.1", port, 5000);
  BOOST_REQUIRE(there.up.wait());
  there.links.connect("127.0.0.1", port, 100);
  BOOST_CHECK(!there.refused.wait(200ms));  // there is nothing left to do
  BOOST_CHECK(!there.down.wait(50ms));
}

BOOST_DATA_TEST_CASE_F(Fixture, two_that_connect_to_each_other_end_with_one_link,
                       boost::unit_test::data::make({false, true}), unix_sockets) {
  const LinkOptions options = options_of("test", unix_sockets);
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

BOOST_FIXTURE_TEST_SUITE(strangers, Fixture)

bool tells_a_name(const std::string& bytes) {
  return bytes.find("test") != std::string::npos || bytes.find("here") != std::string::npos;
}

BOOST_AUTO_TEST_CASE(who_does_not_know_the_secret_is_told_nothing_and_gets_no_link) {
  Side here(system);
  const auto port = here.links.listen("127.0.0.1", 0);
  for (const Role role : {Role::STAGE, Role::CLIENT, Role::NODE}) {
    RawConnection raw(port);
    auto hello = raw_greeting(false);
    hello.peer.role = role;
    BOOST_CHECK_EQUAL(raw.say_hello(wire::encode(hello), std::string(32, 'x')).first, 0);
    BOOST_CHECK(raw.closed());
    BOOST_CHECK(!raw.heard().empty() && !tells_a_name(raw.heard()));
  }
  RawPeer friendly(port);
  BOOST_CHECK(tells_a_name(friendly.control.heard()));  // the check sees a name if there is one
  BOOST_CHECK_EQUAL(here.up.wait().value().node, "raw");
}

BOOST_AUTO_TEST_CASE(a_stranger_that_listens_is_told_nothing) {
  asio::io_context io;
  LinkAcceptor trap = listen_at(io, LinkEndpoint(loopback(0)), "trap");
  Side here(system);
  here.links.connect("127.0.0.1", tcp_endpoint(trap.local_endpoint()).port(), 60'000);
  RawConnection raw(LinkSocket(trap.accept()));
  BOOST_REQUIRE_EQUAL(raw.receive().first, FrameTraits<msg::Challenge>::type_id);
  FrameBuilder<msg::Challenge> answer;
  std::memset(answer->initNonce(32).begin(), 1, 32);
  std::memset(answer->initMac(32).begin(), 2, 32);
  raw.send(std::move(answer).finish());
  BOOST_CHECK(raw.closed());
  BOOST_CHECK(!raw.heard().empty() && !tells_a_name(raw.heard()));
  BOOST_CHECK(contains(here.refused.wait(), "does not know this cluster's secret"));  // and does not wait
}

BOOST_AUTO_TEST_CASE(another_clusters_secret_is_refused_on_both_sides) {
  auto other = options_of();
  other.secret[7] ^= 1;
  Side here(system), there(system, other, "there", 2);
  there.links.connect("127.0.0.1", here.links.listen("127.0.0.1", 0), 60'000);
  BOOST_CHECK(contains(there.refused.wait(), "does not know this cluster's secret"));
  BOOST_CHECK(!here.up.wait(50ms));
  other.secret.clear();
  BOOST_CHECK_THROW(Side(system, other), convoy::InputError);
}

BOOST_AUTO_TEST_CASE(strangers_over_tcp_leave_room_for_unix_domain_peers) {
  auto options = options_of();
  options.limits.handshakes_max = 4;
  options.limits.handshake_timeout_ms = 20'000;
  Side here(system, options), there(system, options_of(), "there", 2);
  const auto port = here.links.listen("127.0.0.1", 0);
  std::vector<std::unique_ptr<RawConnection>> crowd;
  for (int i = 0; i < 100; ++i) crowd.push_back(std::make_unique<RawConnection>(port));
  BOOST_CHECK(crowd.back()->closed());  // more than handshakes_max
  there.links.connect("127.0.0.1", port, 5000);
  BOOST_CHECK(here.up.wait());
  BOOST_CHECK_EQUAL(unix_connections(port), 2u);
}

BOOST_AUTO_TEST_CASE(a_role_says_only_what_it_may) {
  Side here(system, patient());
  const auto port = here.links.listen("127.0.0.1", 0);
  for (const Role role : {Role::CLIENT, Role::STAGE}) {
    RawPeer raw(port, 50 + static_cast<unsigned>(role), role);
    BOOST_CHECK(raw.control.send(plan(1), Role::STAGE, 1));
    BOOST_CHECK(raw.control.send(die(), Role::STAGE, 1));
  }
  RawPeer node(port);
  BOOST_CHECK(node.control.send(plan(2), Role::STAGE, 1));
  BOOST_REQUIRE(here.record->wait_for(1));
  BOOST_CHECK_EQUAL(here.record->steps().at(0), 2u);
}

BOOST_AUTO_TEST_CASE(a_stage_of_other_settings_or_another_model_is_refused_with_both) {
  const auto with = [](Role role, const char* settings, const char* model) {
    auto who = identity("n", role, 0, static_cast<uint64_t>(Clock::now().time_since_epoch().count()));
    who.settings = settings;
    who.model = model;
    return who;
  };
  Slot<PeerIdentity> up;
  Links head(system, options_of(), with(Role::NODE, "kv f32", ""),
             {.up = [&](const PeerIdentity& peer) { up.set(peer); }, .down = {}, .refused = {}});
  const auto port = head.listen("127.0.0.1", 0);
  const auto refusal_of = [&](const PeerIdentity& who, uint32_t give_up_ms) {
    Slot<std::string> refused;
    Links stage(system, options_of(), who,
                {.up = {}, .down = {}, .refused = [&](const std::string&, const std::string& why) {
                   refused.set(why);
                 }});
    stage.connect("127.0.0.1", port, give_up_ms);
    return refused.wait();
  };
  BOOST_CHECK(contains(refusal_of(with(Role::STAGE, "kv f32", "aa"), 100), "not known yet"));
  head.set_model("aa");
  const auto settings = refusal_of(with(Role::STAGE, "kv f16", "aa"), 60'000);
  BOOST_CHECK(contains(settings, "\"kv f16\"") && contains(settings, "\"kv f32\""));
  const auto model = refusal_of(with(Role::STAGE, "kv f32", "bb"), 60'000);
  BOOST_CHECK(contains(model, "model bb there, aa here"));
  BOOST_CHECK(!up.wait(1ms));
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
  const auto hello = LinkProof(link_key(secret), LinkProof::End::connector, "").challenge();
  for (unsigned seed = 0; seed < 300; ++seed) {
    BOOST_TEST_CONTEXT("seed " << seed) {
      std::mt19937_64 random(seed);
      std::vector<std::byte> bytes(wire::header_bytes + hello.bytes()->size() + random() % 200);
      for (auto& byte : bytes) byte = std::byte(random());
      if (seed % 3 != 0) {  // a good start, then a few bits flipped or an early end
        const auto head = wire::encode(
            wire::Header{FrameTraits<msg::Challenge>::type_id, Role::NONE, 0, hello.bytes()->size()});
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
