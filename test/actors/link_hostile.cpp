// Peers that are wrong, old, greedy or malicious: links to them end with a reason, the process and its other
// links live on.

#include <atomic>
#include <boost/test/unit_test.hpp>
#include <random>

#include "link_raw.hpp"
#include "link_side.hpp"
#include "model/error.hpp"

using namespace rig;

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
  here.links.connect("127.0.0.1", tcp_endpoint(trap.local_endpoint()).port(), 10 * patience_ms);
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
  there.links.connect("127.0.0.1", here.links.listen("127.0.0.1", 0), 10 * patience_ms);
  BOOST_CHECK(contains(there.refused.wait(), "does not know this cluster's secret"));
  BOOST_CHECK(!here.up.wait(50ms));
  other.secret.clear();
  BOOST_CHECK_THROW(Side(system, other), convoy::InputError);
}

BOOST_AUTO_TEST_CASE(strangers_over_tcp_leave_room_for_unix_domain_peers) {
  auto options = options_of();
  options.limits.handshakes_max = 4;
  options.limits.handshake_timeout_ms = 2 * patience_ms;
  Side here(system, options), there(system, options_of(), "there", 2);
  const auto port = here.links.listen("127.0.0.1", 0);
  std::vector<std::unique_ptr<RawConnection>> crowd;
  for (int i = 0; i < 100; ++i) crowd.push_back(std::make_unique<RawConnection>(port));
  BOOST_CHECK(crowd.back()->closed());  // more than handshakes_max
  there.links.connect("127.0.0.1", port, patience_ms);
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
  BOOST_CHECK(contains(refusal_of(with(Role::STAGE, "kv f32", "aa"), 1000), "not known yet"));
  head.set_model("", "aa");
  const auto settings = refusal_of(with(Role::STAGE, "kv f16", "aa"), 10 * patience_ms);
  BOOST_CHECK(contains(settings, "\"kv f16\"") && contains(settings, "\"kv f32\""));
  const auto model = refusal_of(with(Role::STAGE, "kv f32", "bb"), 10 * patience_ms);
  BOOST_CHECK(contains(model, "model bb there, aa here"));
  BOOST_CHECK(!up.wait(1ms));
}

BOOST_AUTO_TEST_CASE(a_stages_model_is_held_against_that_of_its_pipeline) {
  const auto with = [](Role role, const char* pipeline, const char* model) {
    auto who = identity("n", role, 0, static_cast<uint64_t>(Clock::now().time_since_epoch().count()));
    who.pipeline = pipeline;
    who.model = model;
    return who;
  };
  Slot<PeerIdentity> up;
  Links head(system, options_of(), with(Role::NODE, "", ""),
             {.up = [&](const PeerIdentity& peer) { up.set(peer); }, .down = {}, .refused = {}});
  head.set_model("", "aa");  // the first, which is called "one"
  head.set_model("one", "aa");
  head.set_model("two", "bb");
  const auto port = head.listen("127.0.0.1", 0);
  const auto refusal_of = [&](const PeerIdentity& who) {
    Slot<std::string> refused;
    Links stage(system, options_of(), who,
                {.up = {}, .down = {}, .refused = [&](const std::string&, const std::string& why) {
                   refused.set(why);
                 }});
    stage.connect("127.0.0.1", port, 10 * patience_ms);
    return refused.wait();
  };
  BOOST_CHECK(contains(refusal_of(with(Role::STAGE, "two", "aa")), "model aa there, bb here"));
  BOOST_CHECK(contains(refusal_of(with(Role::STAGE, "", "bb")), "model bb there, aa here"));
  BOOST_CHECK(contains(refusal_of(with(Role::STAGE, "three", "bb")), "there is no pipeline \"three\" here"));
  BOOST_CHECK(!up.wait(1ms));
  Slot<PeerIdentity> linked;
  Links stage(system, options_of(), with(Role::STAGE, "two", "bb"),
              {.up = [&](const PeerIdentity& peer) { linked.set(peer); }, .down = {}, .refused = {}});
  stage.connect("127.0.0.1", port, 10 * patience_ms);
  BOOST_REQUIRE(linked.wait());
  const auto there = up.wait();
  BOOST_REQUIRE(there);
  BOOST_CHECK_EQUAL(there->pipeline, "two");
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
  BOOST_CHECK(convoy::test::comes_true([&] { return here.dropped("unknown_type") == 2; }));
}

BOOST_AUTO_TEST_CASE(mail_to_nobody_is_dropped_and_the_link_goes_on) {
  Side here(system, patient());
  RawPeer raw(here.links.listen("127.0.0.1", 0));
  BOOST_REQUIRE(raw.control.send(plan(1), Role::STAGE, 77));
  BOOST_REQUIRE(raw.control.send(uint16_t{32}, plan(1).bytes(), static_cast<Role>(500), 1));
  BOOST_REQUIRE(raw.control.send(plan(2), Role::STAGE, 1));
  BOOST_CHECK(here.record->wait_for(1));
  BOOST_CHECK_EQUAL(here.dropped("to_nobody"), 2);
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
