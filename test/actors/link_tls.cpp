// Links over TLS: who gets one, what the others learn, which is nothing, and what is on the wire.

#include <poll.h>

#include <atomic>
#include <boost/asio/ssl.hpp>
#include <boost/test/unit_test.hpp>

#include "actors/link/link_address.hpp"
#include "link_side.hpp"
#include "model/error.hpp"
#include "tls_files.hpp"

using namespace rig;
namespace ssl = boost::asio::ssl;

namespace {

LinkOptions over_tls(std::shared_ptr<LinkTls> tls) {
  LinkOptions options = options_of("test", false);
  options.dev = false;
  options.tls = std::move(tls);
  // "here" has the head, and stage 1; "there" has the others.
  options.places = {"here", [](const std::string& node, uint32_t instance) {
                      return node == (instance == 1 ? "here" : "there");
                    }};
  options.secret = std::string(32, 'o');  // of its own machine: others do not know it
  return options;
}

struct Certified : Fixture {
  Certified() {
    files.issue("here");
    files.issue("there");
  }
  /// What `there` is told that connects with that.
  std::optional<std::string> refused_with(std::shared_ptr<LinkTls> tls) {
    Side here(system, over_tls(files.tls("here")));
    const uint16_t port = here.links.listen("127.0.0.1", 0);
    LinkOptions options = over_tls(std::move(tls));
    Side there(system, options, "there", 2);
    there.links.connect("127.0.0.1", port, 500);
    const auto refused = there.refused.wait();
    BOOST_CHECK(!there.up.wait(0ms));
    BOOST_CHECK(!here.up.wait(50ms));
    return refused;
  }

  TlsFiles files;
};

/// What a stranger's connection gets, until the other side closes it or says no more for a while.
template <class Stream>
std::string all_that_comes(Stream& stream, int socket) {
  std::string heard(64 << 10, '\0');
  size_t size = 0;
  pollfd readable{socket, POLLIN, 0};
  while (size < heard.size() && ::poll(&readable, 1, 500) > 0) {
    boost::system::error_code error;
    const size_t some =
        stream.read_some(boost::asio::buffer(heard.data() + size, heard.size() - size), error);
    size += some;
    if (error) break;
  }
  heard.resize(size);
  return heard;
}

/// A cache that adds up the numbers of the requests it gets. What an actor captures it takes as an argument:
/// without any, CAF 0.17.6 binds a reference to nothing, and UndefinedBehaviorSanitizer ends the test.
CacheActor::behavior_type asked_cache(CacheActor::pointer, std::atomic<uint64_t>* asked) {
  return {[asked](const Frame<msg::Generate>& f) { *asked += msg::Reading(f)->getReplyTo().getRequest(); },
          [](const Frame<msg::Store>&) {}, [](const GatewayUp&) {}};
}

}  // namespace

BOOST_FIXTURE_TEST_SUITE(of_certified_nodes, Certified)

BOOST_AUTO_TEST_CASE(nodes_of_one_authority_link_and_their_mail_arrives) {
  Side here(system, over_tls(files.tls("here"))), there(system, over_tls(files.tls("there")), "there", 2);
  there.links.connect("127.0.0.1", here.links.listen("127.0.0.1", 0), patience_ms);
  const auto peer = here.up.wait();
  BOOST_REQUIRE(peer);
  const auto stage = here.links.remote<EchoActor>(*peer, Role::STAGE, 1);
  mail(stage, plan(1));
  mail(stage, activations(2, 5 << 20));  // of many TLS records
  mail(stage, plan(3));
  BOOST_REQUIRE(there.record->wait_for(2));
}

BOOST_AUTO_TEST_CASE(another_authority_vouches_for_nobody) {
  const TlsFiles others;
  others.issue("there");
  BOOST_CHECK(contains(refused_with(others.tls("there")), "certificate"));
}

BOOST_AUTO_TEST_CASE(a_node_is_who_its_certificate_says) {
  files.issue("elsewhere");
  // It says that it is of "there".
  BOOST_CHECK(contains(refused_with(files.tls("elsewhere")), "another node's certificate"));
}

BOOST_AUTO_TEST_CASE(who_listens_with_another_nodes_certificate_is_refused) {
  files.issue("elsewhere");
  Side here(system, over_tls(files.tls("elsewhere")));  // as node "here"
  Side there(system, over_tls(files.tls("there")), "there", 2);
  there.links.connect("127.0.0.1", here.links.listen("127.0.0.1", 0), 500);
  BOOST_CHECK(contains(there.refused.wait(), "another node's certificate"));
}

BOOST_AUTO_TEST_CASE(another_nodes_stage_is_refused_and_told_nothing) {
  Side here(system, over_tls(files.tls("here")));
  const uint16_t port = here.links.listen("127.0.0.1", 0);
  const auto refused_as_stage = [&](uint32_t instance) {
    Slot<PeerIdentity> up;
    Slot<std::string> refused;
    Links links(system, over_tls(files.tls("there")),
                identity("there", Role::STAGE, instance, 100 + instance),
                {.up = [&](const PeerIdentity& peer) { up.set(peer); },
                 .down = [](const PeerIdentity&, const std::string&) {},
                 .refused = [&](const std::string&, const std::string& reason) { refused.set(reason); }});
    links.connect("127.0.0.1", port, instance == 1 ? 300 : patience_ms);
    if (instance != 1) return !up.wait();
    const auto reason = refused.wait();
    BOOST_TEST_INFO(reason.value_or("(nothing)"));
    return reason && reason->find("stage") == std::string::npos && !up.wait(0ms);
  };
  BOOST_CHECK(refused_as_stage(1));
  BOOST_CHECK(!here.up.wait(0ms));
  BOOST_CHECK(!refused_as_stage(2));
}

BOOST_AUTO_TEST_CASE(orders_of_another_node_than_the_heads_reach_nobody) {
  Side here(system, over_tls(files.tls("here"))), there(system, over_tls(files.tls("there")), "there", 2);
  there.links.connect("127.0.0.1", here.links.listen("127.0.0.1", 0), patience_ms);
  const auto head = there.up.wait(), peer = here.up.wait();
  BOOST_REQUIRE(head && peer);
  mail(there.links.remote<EchoActor>(*head, Role::STAGE, 1), plan(1));  // whose answer would be on record
  mail(here.links.remote<EchoActor>(*peer, Role::STAGE, 1), plan(2));
  BOOST_CHECK(there.record->wait_for(1));
  BOOST_CHECK(convoy::test::comes_true([&] { return here.dropped("not_allowed") == 1; }));
  BOOST_CHECK(here.record->steps().empty());
  BOOST_CHECK_EQUAL(there.dropped("not_allowed"), 0);
}

BOOST_AUTO_TEST_CASE(a_gateway_asks_in_the_name_of_its_own_node_alone) {
  std::atomic<uint64_t> asked = 0;  // the sum of the requests' numbers
  const auto cache = system.spawn(asked_cache, &asked);
  {
    LinkOptions options = over_tls(files.tls("here"));
    options.places.has_gateway = [](const std::string& node) { return node == "there"; };
    Side here(system, options);
    here.links.publish(Role::CACHE, 0, caf::actor_cast<caf::actor>(cache));
    Slot<PeerIdentity> up;
    Links there(system, over_tls(files.tls("there")), identity("there", Role::GATEWAY, 0, 7),
                {.up = [&](const PeerIdentity& peer) { up.set(peer); },
                 .down = [](const PeerIdentity&, const std::string&) {},
                 .refused = [](const std::string&, const std::string&) {}});
    there.connect("127.0.0.1", here.links.listen("127.0.0.1", 0), patience_ms);
    const auto head = up.wait();
    BOOST_REQUIRE(head);
    for (const auto& [node, number] : {std::pair("here", 1), std::pair("there", 2)}) {
      msg::FrameBuilder<msg::Generate> generate;
      generate->initReplyTo().setNode(node);
      generate->getReplyTo().setRequest(static_cast<uint64_t>(number));
      mail(there.remote<CacheActor>(*head, Role::CACHE, 0), std::move(generate).finish());
    }
    BOOST_CHECK(convoy::test::comes_true([&] { return asked != 0; }));
    BOOST_CHECK_EQUAL(asked.load(), 2u);
    BOOST_CHECK_EQUAL(here.dropped("not_allowed"), 1);
  }
  end_and_wait(system, cache);
}

BOOST_AUTO_TEST_CASE(what_is_missing_ended_or_open_to_others_is_refused_before_anything_starts) {
  const auto refuses = [&](const std::string& node, const std::string& words) {
    BOOST_CHECK_EXCEPTION(files.tls(node), convoy::InputError, [&](const convoy::InputError& e) {
      BOOST_TEST_INFO(e.what());
      return std::string(e.what()).find(words) != std::string::npos;
    });
  };
  refuses("nobody", "nobody.pem");
  files.issue("old", -1);
  refuses("old", "expired");
  files.issue("here", node_days, "borrowed");
  refuses("borrowed", "is not the certificate of node");
  const TlsFiles others;
  files.write("foreign", issue(make_authority(), "test", "foreign"));
  refuses("foreign", "peers will refuse it");
  files.issue("open");
  std::filesystem::permissions(files.folder() / key_file("open"), std::filesystem::perms(0644));
  refuses("open", "open to other users");
  files.issue("mixed");
  files.issue("here");
  std::filesystem::copy_file(files.folder() / key_file("here"), files.folder() / key_file("mixed"),
                             std::filesystem::copy_options::overwrite_existing);
  refuses("mixed", "mixed.key");
  std::ofstream(files.folder() / certificate_file("mixed")) << "no certificate";
  refuses("mixed", "mixed.pem");
}

BOOST_AUTO_TEST_CASE(new_certificates_count_from_the_next_connection_on) {
  const auto tls = files.tls("here");
  SSL_CTX* const before = tls->context().native_handle();
  BOOST_CHECK_EQUAL(tls->context().native_handle(), before);
  files.issue("here");
  SSL_CTX* const renewed = tls->context().native_handle();
  BOOST_CHECK_NE(renewed, before);
  std::ofstream(files.folder() / certificate_file("here")) << "half a certif";
  BOOST_CHECK_EQUAL(tls->context().native_handle(), renewed);  // and a link still comes of it
  Side here(system, over_tls(tls)), there(system, over_tls(files.tls("there")), "there", 2);
  there.links.connect("127.0.0.1", here.links.listen("127.0.0.1", 0), patience_ms);
  BOOST_CHECK(there.up.wait());
}

BOOST_AUTO_TEST_CASE(a_stranger_is_told_nothing_by_bytes_or_by_tls) {
  Side here(system, over_tls(files.tls("here")));
  const uint16_t port = here.links.listen("127.0.0.1", 0);
  asio::io_context io;
  {
    asio::ip::tcp::socket plain(io);
    plain.connect({asio::ip::address_v4::loopback(), port});
    asio::write(plain, asio::buffer(std::string("GET / HTTP/1.1\r\n\r\n")));
    const std::string heard = all_that_comes(plain, plain.native_handle());
    BOOST_CHECK_EQUAL(heard.find("here"), std::string::npos);
    BOOST_CHECK_LE(heard.size(), 16u);  // an alert of TLS
  }
  ssl::context context(ssl::context::tls_client);
  ssl::stream<asio::ip::tcp::socket> stranger(io, context);
  stranger.lowest_layer().connect({asio::ip::address_v4::loopback(), port});
  boost::system::error_code error;
  stranger.handshake(ssl::stream_base::client, error);
  const std::unique_ptr<X509, decltype(&X509_free)> shown(SSL_get1_peer_certificate(stranger.native_handle()),
                                                          X509_free);
  BOOST_REQUIRE(shown);
  const std::unique_ptr<char, void (*)(char*)> subject(
      X509_NAME_oneline(X509_get_subject_name(shown.get()), nullptr, 0),
      [](char* text) { OPENSSL_free(text); });
  const std::unique_ptr<char, void (*)(char*)> issuer(
      X509_NAME_oneline(X509_get_issuer_name(shown.get()), nullptr, 0),
      [](char* text) { OPENSSL_free(text); });
  const std::string names = std::string(subject.get()) + issuer.get();
  BOOST_CHECK_EQUAL(names.find("here"), std::string::npos);
  BOOST_CHECK_EQUAL(names.find("test"), std::string::npos);
  BOOST_CHECK_EQUAL(all_that_comes(stranger, stranger.lowest_layer().native_handle()), "");
  BOOST_CHECK(!here.up.wait(0ms));
}

BOOST_AUTO_TEST_CASE(a_gateways_certificate_of_the_same_authority_opens_no_link) {
  Side here(system, over_tls(files.tls("here")));
  const Identity gateway = files.server({"here", "10.0.0.1"});
  ssl::context context(ssl::context::tls_client);
  context.use_certificate(asio::buffer(gateway.certificate), ssl::context::pem);
  context.use_private_key(asio::buffer(gateway.key), ssl::context::pem);
  asio::io_context io;
  ssl::stream<asio::ip::tcp::socket> peer(io, context);
  peer.lowest_layer().connect({asio::ip::address_v4::loopback(), here.links.listen("127.0.0.1", 0)});
  boost::system::error_code error;
  peer.handshake(ssl::stream_base::client, error);  // as TLS 1.3 has it, its end is refused behind that
  char byte;
  if (!error) peer.read_some(asio::buffer(&byte, 1), error);
  BOOST_CHECK(error.message().find("certificate") != std::string::npos);
  for (const char* wrong : {"", "a b", "a,DNS:b", "10.0.0.1,IP:10.0.0.2"})
    BOOST_CHECK_THROW(files.server({wrong}), convoy::InputError);
}

BOOST_AUTO_TEST_CASE(who_says_nothing_in_tls_is_closed_after_handshake_timeout_ms) {
  LinkOptions options = over_tls(files.tls("here"));
  options.limits.handshake_timeout_ms = 300;
  Side here(system, options);
  asio::io_context io;
  asio::ip::tcp::socket silent(io);
  silent.connect({asio::ip::address_v4::loopback(), here.links.listen("127.0.0.1", 0)});
  char byte;
  boost::system::error_code error;
  silent.read_some(asio::buffer(&byte, 1), error);
  BOOST_CHECK(error);
}

BOOST_AUTO_TEST_CASE(old_versions_of_tls_are_refused) {
  Side here(system, over_tls(files.tls("here")));
  ssl::context context(ssl::context::tlsv12_client);
  asio::io_context io;
  ssl::stream<asio::ip::tcp::socket> old(io, context);
  old.lowest_layer().connect({asio::ip::address_v4::loopback(), here.links.listen("127.0.0.1", 0)});
  boost::system::error_code error;
  old.handshake(ssl::stream_base::client, error);
  BOOST_CHECK(error);
}

BOOST_AUTO_TEST_CASE(links_of_several_machines_are_not_for_every_address) {
  Side here(system, over_tls(files.tls("here")));
  BOOST_CHECK_THROW(here.links.listen("0.0.0.0", 0), convoy::InputError);
  BOOST_CHECK_THROW(here.links.listen("a.name", 0), convoy::InputError);
  here.links.connect("a.name", 80, patience_ms);
  BOOST_CHECK(contains(here.refused.wait(), "numeric"));
}

BOOST_AUTO_TEST_CASE(a_revoked_nodes_link_ends_and_it_gets_no_other) {
  Side here(system, over_tls(files.tls("here"))), there(system, over_tls(files.tls("there")), "there", 2);
  const uint16_t port = here.links.listen("127.0.0.1", 0);
  there.links.connect("127.0.0.1", port, patience_ms);
  BOOST_REQUIRE(there.up.wait());
  replace_private(files.folder() / revocations_file, files.revoked({"there"}, 1));
  BOOST_CHECK(contains(here.down.wait(), "revoked"));
  const TlsFiles of_another_machine;  // which has not heard of it
  for (const std::string name : {authority_file, "there.pem", "there.key"})
    std::filesystem::copy_file(files.folder() / name, of_another_machine.folder() / name,
                               std::filesystem::copy_options::overwrite_existing);
  Side again(system, over_tls(of_another_machine.tls("there")), "there", 3);
  again.links.connect("127.0.0.1", port, 500);
  BOOST_CHECK(contains(again.refused.wait(), "revoked"));
  // A new certificate is another one.
  files.issue("there");
  Side renewed(system, over_tls(files.tls("there")), "there", 4);
  renewed.links.connect("127.0.0.1", port, patience_ms);
  BOOST_CHECK(renewed.up.wait());
}

BOOST_AUTO_TEST_CASE(machines_tell_each_other_who_was_revoked) {
  files.issue("third");
  const TlsFiles elsewhere;
  files.copy_to(elsewhere);
  const auto told = elsewhere.tls("there");
  Side here(system, over_tls(files.tls("here"))), there(system, over_tls(told), "there", 2);
  there.links.connect("127.0.0.1", here.links.listen("127.0.0.1", 0), patience_ms);
  BOOST_REQUIRE(there.up.wait());
  const std::string list = files.revoked({"third"}, 5);
  replace_private(files.folder() / revocations_file, list);
  BOOST_CHECK(convoy::test::comes_true(
      [&] { return std::filesystem::exists(elsewhere.folder() / revocations_file); }));
  const auto read = elsewhere.tls("there");
  BOOST_CHECK(read->revoked(serial_of(files.certificate_of("third"))));
  BOOST_CHECK(!read->revoked(serial_of(files.certificate_of("there"))));
  BOOST_CHECK_EQUAL(read->revocations(), list);
}

BOOST_AUTO_TEST_CASE(a_list_counts_that_the_authority_signed_and_that_is_later) {
  const auto tls = files.tls("here");
  BOOST_CHECK(tls->take_revocations(files.revoked({"there"}, 7)));
  BOOST_CHECK(!tls->take_revocations(files.revoked({}, 7)));
  BOOST_CHECK(!tls->take_revocations(files.revoked({}, 6)));
  BOOST_CHECK(tls->revoked(serial_of(files.certificate_of("there"))));
  const TlsFiles others;
  others.issue("there");
  BOOST_CHECK_THROW(tls->take_revocations(others.revoked({"there"}, 8)), convoy::InputError);
  BOOST_CHECK_THROW(tls->take_revocations("nonsense"), convoy::InputError);
  BOOST_CHECK_THROW(tls->take_revocations(""), convoy::InputError);
  BOOST_CHECK(tls->take_revocations(files.revoked({"there"}, 8)));
  files.tls("here");  // which reads it again
  BOOST_CHECK_THROW(files.tls("there"), convoy::InputError);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_CASE(a_certificate_is_renewed_in_the_last_third_of_its_life) {
  BOOST_CHECK(!is_due(1000, 1300, 1000));
  BOOST_CHECK(!is_due(1000, 1300, 1200));
  BOOST_CHECK(is_due(1000, 1300, 1201));
  BOOST_CHECK(is_due(1000, 1300, 1301));
}

BOOST_AUTO_TEST_CASE(names_in_certificates_are_of_one_cluster_and_node_alone) {
  BOOST_CHECK_EQUAL(certificate_name("a", "b"), certificate_name("a", "b"));
  BOOST_CHECK_NE(certificate_name("a", "b"), certificate_name("a", "c"));
  BOOST_CHECK_NE(certificate_name("ab", "c"), certificate_name("a", "bc"));
  BOOST_CHECK_EQUAL(certificate_name("a", "b").size(), 40u);
  BOOST_CHECK_THROW(issue({"none", "none"}, "a", "b"), convoy::InputError);
  const Identity one = make_authority(), other = make_authority();
  BOOST_CHECK_THROW(issue({one.certificate, other.key}, "a", "b"), convoy::InputError);
}
