// Who gets a link, and what those are told who get none.

#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

#include "link_raw.hpp"
#include "link_side.hpp"
#include "model/error.hpp"

using namespace rig;

BOOST_FIXTURE_TEST_SUITE(handshake, Fixture)

BOOST_AUTO_TEST_CASE(another_cluster_is_refused_with_both_names) {
  Side here(system), there(system, options_of("other"), "there", 2);
  there.links.connect("127.0.0.1", here.links.listen("127.0.0.1", 0), 10 * patience_ms);
  const auto reason = there.refused.wait();  // and not when it gives up: trying again would not help
  BOOST_CHECK(contains(reason, "\"other\""));
  BOOST_CHECK(contains(reason, "\"test\""));
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
  BOOST_CHECK(contains(std::string(refused->getReason().cStr()), "protocol versions 6 to 7 there, 5 here"));
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
  options.limits.handshake_timeout_ms = 1000;
  Side here(system, options);
  const auto port = here.links.listen("127.0.0.1", 0);
  RawConnection silent(port), half(port);
  BOOST_REQUIRE_EQUAL(half.say_hello(raw_greeting(false)).first,
                      FrameTraits<msg::Hello>::type_id);  // and never its bulk connection
  BOOST_CHECK(silent.closed());
  BOOST_CHECK(half.closed());
  BOOST_CHECK(!here.up.wait(50ms));
}

BOOST_AUTO_TEST_CASE(a_control_connection_that_ends_before_its_bulk_connection_is_there_is_tried_again) {
  auto options = patient();
  options.unix_sockets = false;
  options.limits.handshake_timeout_ms = 1000;
  asio::io_context io;
  asio::ip::tcp::acceptor acceptor(io, loopback(0));
  const uint16_t port = acceptor.local_endpoint().port();
  Side here(system, options);
  here.links.connect("127.0.0.1", port, 10 * patience_ms);
  RawConnection control(LinkSocket(acceptor.accept()));
  BOOST_REQUIRE(control.answer_hello(port, 600ms));
  RawConnection bulk(LinkSocket(acceptor.accept()));
  BOOST_REQUIRE(bulk.answer_hello(port, 800ms));  // within its own time
  pollfd next{acceptor.native_handle(), POLLIN, 0};
  BOOST_REQUIRE_EQUAL(poll(&next, 1, patience_ms), 1);
  RawConnection again(LinkSocket(acceptor.accept()));
  BOOST_REQUIRE(again.answer_hello(port, 0ms));
  RawConnection again_bulk(LinkSocket(acceptor.accept()));
  BOOST_REQUIRE(again_bulk.answer_hello(port, 0ms));
  BOOST_CHECK(here.up.wait());
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
  here.links.connect("10.1.2.3", 80, patience_ms);
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
  there.links.connect("127.0.0.1", later, patience_ms);
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
  first.links.connect("127.0.0.1", port, patience_ms);
  BOOST_REQUIRE(first.up.wait());
  second.links.connect("127.0.0.1", port, 1500);
  BOOST_CHECK(contains(second.refused.wait(), "links_max = 1"));
  BOOST_CHECK(!second.up.wait(50ms));
}

BOOST_AUTO_TEST_CASE(a_process_is_linked_once) {
  Side here(system), there(system, options_of(), "there", 2);
  const auto port = here.links.listen("127.0.0.1", 0);
  there.links.connect("127.0.0.1", port, patience_ms);
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
    const uint32_t give_up_ms = round < 9 ? patience_ms : 2000;
    here.links.connect("127.0.0.1", there_port, give_up_ms);
    there.links.connect("127.0.0.1", here_port, give_up_ms);
    const auto peer = here.up.wait();
    BOOST_REQUIRE(peer);
    BOOST_REQUIRE(there.up.wait());
    BOOST_CHECK(!here.down.wait(20ms));
    BOOST_CHECK_EQUAL(unix_connections(here_port) + unix_connections(there_port) > 0, unix_sockets);
    const auto stage = here.links.remote<EchoActor>(*peer, Role::STAGE, 1);
    mail(stage, plan(1));
    BOOST_CHECK(there.record->wait_for(1));  // its echo answers to its own recorder
    if (round < 9) continue;
    BOOST_CHECK(!here.refused.wait(2200ms));  // neither goes on to try and then gives up
    BOOST_CHECK(!there.refused.wait(1ms));
  }
}

BOOST_AUTO_TEST_SUITE_END()
