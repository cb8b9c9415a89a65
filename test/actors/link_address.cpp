// Which way a link takes: Unix-domain sockets between processes of one user, TCP where there are none.

#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <thread>

#include "link_raw.hpp"
#include "link_side.hpp"
#include "model/error.hpp"

using namespace rig;

namespace {

/// Runs it on a thread of another user: the kernel knows users by thread, the library's setuid by process.
template <class Action>
void as_another_user(Action action) {
  std::thread([&] {
    constexpr uid_t nobody = 65534;
    const bool changed = syscall(SYS_setresuid, nobody, nobody, nobody) == 0;
    BOOST_CHECK(changed);
    if (changed) action();
  }).join();
  prctl(PR_SET_DUMPABLE, 1);  // that change took it from the process, and LeakSanitizer needs it
}

boost::unit_test::precondition only_as_root([](boost::unit_test::test_unit_id) { return geteuid() == 0; });

}  // namespace

BOOST_FIXTURE_TEST_SUITE(link_address, Fixture)

BOOST_AUTO_TEST_CASE(a_unix_name_in_use_is_an_input_error) {
  Side here(system);
  const uint16_t port = free_port(system);
  asio::io_context io;
  const auto taken = listen_at(io, unix_beside(loopback(port)), "taken");
  BOOST_CHECK_EXCEPTION(here.links.listen("127.0.0.1", port), convoy::InputError, [&](const auto& e) {
    return e.where() == "127.0.0.1:" + std::to_string(port) + " (Unix-domain)";
  });
  RawConnection raw(here.links.listen("127.0.0.1", 0));  // another address is as good as ever
  BOOST_CHECK_EQUAL(raw.say_hello(raw_greeting(false)).first, FrameTraits<msg::Hello>::type_id);
}

BOOST_AUTO_TEST_CASE(an_address_is_free_as_soon_as_its_links_are_gone) {
  Side there(system, options_of(), "there", 2);
  uint16_t port = 0;
  for (uint64_t incarnation = 3; incarnation < 6; ++incarnation) {
    Side here(system, options_of(), "here", incarnation);
    port = here.links.listen("127.0.0.1", port);
    there.links.connect("127.0.0.1", port, patience_ms);
    BOOST_REQUIRE(here.up.wait());
    BOOST_CHECK_EQUAL(unix_connections(port), 2u);
  }
}

BOOST_AUTO_TEST_CASE(a_peer_without_unix_sockets_is_linked_over_tcp) {
  const LinkOptions without = options_of("test", false);
  for (const bool listener_has : {false, true}) {
    const LinkOptions with = options_of();
    Side here(system, listener_has ? with : without),
        there(system, listener_has ? without : with, "there", 2);
    const auto port = here.links.listen("127.0.0.1", 0);
    there.links.connect("127.0.0.1", port, patience_ms);
    BOOST_CHECK(there.up.wait());
    BOOST_CHECK_EQUAL(unix_connections(port), 0u);
  }
}

BOOST_AUTO_TEST_CASE(another_users_process_gets_no_unix_connection, *only_as_root) {
  Side here(system);
  const auto port = here.links.listen("127.0.0.1", 0);
  as_another_user([&] {
    RawConnection raw{LinkEndpoint(unix_beside(loopback(port)))};
    raw.send(wire::encode(raw_greeting(false)));
    BOOST_CHECK_EQUAL(raw.receive().first, 0);
    BOOST_CHECK(raw.closed());
  });
  BOOST_CHECK(!here.up.wait(50ms));
}

BOOST_AUTO_TEST_CASE(another_users_unix_socket_beside_our_peer_is_passed_by, *only_as_root) {
  const LinkOptions without = options_of("test", false);
  Side here(system), there(system, without, "there", 2);
  const auto port = there.links.listen("127.0.0.1", 0);
  asio::io_context io;
  std::optional<LinkAcceptor> trap;
  as_another_user([&] { trap.emplace(listen_at(io, unix_beside(loopback(port)), "trap")); });
  here.links.connect("127.0.0.1", port, patience_ms);
  BOOST_CHECK(here.up.wait());
  BOOST_CHECK_EQUAL(unix_connections(port), 0u);
}

BOOST_AUTO_TEST_SUITE_END()
