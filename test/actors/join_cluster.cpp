// Joining by a token over sockets: both ends, and those that are neither.

#include "actors/link/join_cluster.hpp"

#include <boost/test/unit_test.hpp>

#include "actors/link/link_proof.hpp"
#include "enrolment_rig.hpp"
#include "link_side.hpp"
#include "tls_files.hpp"

using namespace rig;
namespace ssl = boost::asio::ssl;

namespace {

struct Head : Fixture {
  LinkOptions over_tls(bool enrols = true) {
    LinkOptions options = options_of("test", false);
    options.dev = false;
    options.tls = std::make_shared<LinkTls>(machine.options.tls_dir, "test", "here");
    options.places = {"here", [](const std::string&, uint32_t) { return true; }};
    if (enrols)
      options.enrol = [this](const std::string& key, const FrameBytes& said, const FrameBytes& proof) {
        return enrolment.answer(key, said, proof);
      };
    return options;
  }
  JoinOrder order(uint16_t port, const JoinToken& token) const {
    JoinOrder order;
    order.host = "127.0.0.1";
    order.port = port;
    order.token = token;
    order.node = "new";
    order.listen = ":7413";
    order.timeout = patience;
    return order;
  }

  Identity identity_of_authority() const {
    return {machine.authority.certificate(),
            read_pem(machine.options.tls_dir / authority_key_file, true, "")};
  }

  using FrameBytes = convoy::schema::FrameBytes;
  HeadsMachine machine;
  Enrolment enrolment{machine.options};
};

using TlsStream = ssl::stream<asio::ip::tcp::socket>;

/// One without a certificate that says what it likes.
struct Stranger {
  /// With a certificate, if there is one: of another authority.
  explicit Stranger(uint16_t port, const Identity& shown = {}) {
    if (!shown.key.empty()) {
      context.use_certificate(asio::buffer(shown.certificate), ssl::context::pem);
      context.use_private_key(asio::buffer(shown.key), ssl::context::pem);
    }
    stream = std::make_unique<TlsStream>(io, context);
    stream->lowest_layer().connect({asio::ip::address_v4::loopback(), port});
    stream->handshake(ssl::stream_base::client);
  }
  void say(uint16_t type, uint64_t size, const convoy::schema::FrameBytes& bytes = nullptr) {
    const auto head = wire::encode(wire::Header{type, Role::NONE, 0, size});
    boost::system::error_code error;
    asio::write(*stream, asio::buffer(head), error);
    if (bytes) asio::write(*stream, asio::buffer(bytes->data(), bytes->size()), error);
  }
  /// Bytes that come before the other side closes.
  size_t hears() {
    char bytes[256];
    boost::system::error_code error;
    return asio::read(*stream, asio::buffer(bytes), error);
  }

  asio::io_context io;
  ssl::context context{ssl::context::tls_client};
  std::unique_ptr<TlsStream> stream;
};

}  // namespace

BOOST_FIXTURE_TEST_SUITE(over_sockets, Head)

BOOST_AUTO_TEST_CASE(a_machine_joins_and_its_node_is_linked) {
  Side here(system, over_tls());
  const uint16_t port = here.links.listen("127.0.0.1", 0);
  const Joined joined = join_cluster(order(port, machine.token()));
  BOOST_REQUIRE_EQUAL(joined.failed + joined.refused, "");
  BOOST_CHECK_EQUAL(joined.listen, "127.0.0.1:7413");
  const convoy::test::TemporaryFolder elsewhere;
  replace_private(elsewhere.path() / authority_file, joined.authority);
  write_identity(elsewhere.path(), "new", {joined.certificate, joined.key});
  LinkOptions options = over_tls(false);
  options.tls = std::make_shared<LinkTls>(elsewhere.path(), "test", "new");
  Side there(system, options, "new", 2);
  there.links.connect("127.0.0.1", port, patience_ms);
  BOOST_CHECK(there.up.wait());
  const auto peer = here.up.wait();
  BOOST_REQUIRE(peer);
  BOOST_CHECK_GT(peer->certificate_until_s, 0);
}

BOOST_AUTO_TEST_CASE(a_machine_that_joins_gets_the_list_of_those_that_count_no_more) {
  machine.authority.issue("test", "old", 30);
  machine.authority.revoke("old");
  Side here(system, over_tls());
  const Joined joined = join_cluster(order(here.links.listen("127.0.0.1", 0), machine.token()));
  BOOST_CHECK_EQUAL(joined.failed + joined.refused, "");
  BOOST_CHECK_EQUAL(joined.revocations, machine.authority.revocations());
}

BOOST_AUTO_TEST_CASE(the_head_refuses_with_a_reason) {
  Side here(system, over_tls());
  const uint16_t port = here.links.listen("127.0.0.1", 0);
  const JoinToken token = machine.token();
  BOOST_CHECK(
      join_cluster(order(port, draw_token(token.authority))).refused.find("does not know this token") !=
      std::string::npos);
  BOOST_CHECK_EQUAL(join_cluster(order(port, token)).refused, "");
  BOOST_CHECK(join_cluster(order(port, token)).refused.find("as often as it may be") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(another_authority_is_told_nothing_of_the_token) {
  Side here(system, over_tls());
  const uint16_t port = here.links.listen("127.0.0.1", 0);
  JoinToken token = machine.token();
  token.authority = fingerprint_of(make_authority().certificate);
  const Joined joined = join_cluster(order(port, token));
  BOOST_CHECK(joined.failed.find("not of the cluster that the token names") != std::string::npos);
  BOOST_CHECK_EQUAL(machine.authority.tokens().at(0).uses, 1u);
}

BOOST_AUTO_TEST_CASE(who_enrols_nobody_tells_a_stranger_nothing) {
  Side here(system, over_tls(false));
  const Joined joined = join_cluster(order(here.links.listen("127.0.0.1", 0), machine.token()));
  BOOST_CHECK(joined.failed.find("it enrols nobody") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(nobody_and_silence_end_in_time) {
  JoinOrder nobody = order(free_port(system), machine.token());
  BOOST_CHECK(!join_cluster(nobody).failed.empty());
  asio::io_context io;
  asio::ip::tcp::acceptor silent(io, {asio::ip::address_v4::loopback(), 0});
  nobody.port = silent.local_endpoint().port();
  nobody.timeout = 200ms;
  BOOST_CHECK(join_cluster(nobody).failed.find("no answer within 200 ms") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(a_stranger_becomes_no_link_and_takes_no_memory) {
  LinkOptions options = over_tls();
  options.limits.handshake_timeout_ms = 500;
  Side here(system, options);
  const uint16_t port = here.links.listen("127.0.0.1", 0);
  Stranger linking(port);  // with the proof's key of that connection, as a link would have
  std::string key(32, '\0');
  SSL_export_keying_material(linking.stream->native_handle(), reinterpret_cast<unsigned char*>(key.data()),
                             key.size(), "EXPORTER-convoy-link", 20, nullptr, 0, 0);
  LinkProof proof(key, LinkProof::End::connector, "");
  const auto challenge = proof.challenge();
  linking.say(convoy::schema::FrameTraits<msg::Challenge>::type_id, challenge.bytes()->size(),
              challenge.bytes());
  BOOST_CHECK_EQUAL(linking.hears(), 0u);
  Stranger greedy(port);
  greedy.say(convoy::schema::FrameTraits<convoy::schema::Enrol>::type_id, wire::hello_bytes_max + 8);
  BOOST_CHECK_EQUAL(greedy.hears(), 0u);
  Stranger foreign(port, issue(make_authority(), "test", "there"));
  foreign.say(convoy::schema::FrameTraits<msg::Challenge>::type_id, challenge.bytes()->size(),
              challenge.bytes());
  BOOST_CHECK_EQUAL(foreign.hears(), 0u);
  Stranger silent(port);
  BOOST_CHECK_EQUAL(silent.hears(), 0u);
  BOOST_CHECK(!here.up.wait(0ms));
  BOOST_CHECK_EQUAL(join_cluster(order(port, machine.token())).failed, "");
}

BOOST_AUTO_TEST_CASE(a_certificate_that_ends_soon_is_renewed_over_its_link) {
  LinkOptions heads = over_tls();
  heads.renew = [this](const std::string& node, const std::string& request) {
    return enrolment.renew(node, request);
  };
  Side here(system, heads);
  const uint16_t port = here.links.listen("127.0.0.1", 0);
  machine.authority.issue("test", "there", 1);  // so that it is in the books
  const convoy::test::TemporaryFolder elsewhere;
  const auto authority = identity_of_authority();
  replace_private(elsewhere.path() / authority_file, authority.certificate);
  write_identity(elsewhere.path(), "there", issue(authority, "test", "there", 100s));
  const auto tls = std::make_shared<LinkTls>(elsewhere.path(), "test", "there");
  const int64_t soon = tls->until_s();
  LinkOptions options = over_tls(false);
  options.tls = tls;
  Side there(system, options, "there", 2);
  there.links.connect("127.0.0.1", port, patience_ms);
  BOOST_CHECK(contains(there.down.wait(), "renewed"));
  BOOST_CHECK_GT(tls->until_s(), soon + 300 * 86'400);
  BOOST_CHECK_EQUAL(LinkTls(elsewhere.path(), "test", "there").until_s(), tls->until_s());
  there.links.connect("127.0.0.1", port, patience_ms);
  BOOST_CHECK(convoy::test::comes_true([&] {
    const auto peer = here.up.wait(0ms);
    return peer && peer->certificate_until_s == tls->until_s();
  }));
  BOOST_CHECK_EQUAL(machine.authority.revoke("there"), 2u);
  BOOST_CHECK_EQUAL(enrolment.renew("there", make_request().request), "");  // it has none any more
}

BOOST_AUTO_TEST_CASE(no_certificate_is_taken_but_another_of_our_own) {
  const auto authority = identity_of_authority();
  const TlsFiles files;
  replace_private(files.folder() / authority_file, authority.certificate);
  files.write("there", issue(authority, "test", "there", 100s));
  const auto tls = files.tls("there");
  const int64_t soon = tls->until_s();
  const auto request = tls->renewal();
  BOOST_REQUIRE(request);
  for (const std::string& wrong : {certify(authority, "test", "other", *request),
                                   certify(authority, "test", "there", make_request().request),
                                   certify(make_authority(), "test", "there", *request), std::string("none")})
    BOOST_CHECK_THROW(tls->take_certificate(wrong), convoy::InputError);
  BOOST_CHECK_EQUAL(tls->until_s(), soon);
  tls->take_certificate(certify(authority, "test", "there", *request));
  BOOST_CHECK_GT(tls->until_s(), soon);
  BOOST_CHECK(!tls->renewal());
}

BOOST_AUTO_TEST_CASE(many_that_try_are_told_to_come_later) {
  Side here(system, over_tls());
  const uint16_t port = here.links.listen("127.0.0.1", 0);
  const JoinToken wrong = draw_token(fingerprint_of(machine.authority.certificate()));
  bool told = false;
  for (uint32_t i = 0; i < 4 * EnrolmentPace::burst && !told; ++i)
    told = join_cluster(order(port, wrong)).refused.find("try again") != std::string::npos;
  BOOST_CHECK(told);
}

BOOST_AUTO_TEST_SUITE_END()
