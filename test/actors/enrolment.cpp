// Joining by a token, without sockets: tokens, what the head decides, and the configuration it gives.

#include "actors/link/enrolment.hpp"

#include <boost/test/unit_test.hpp>

#include "actors/config/added_node.hpp"
#include "enrolment_rig.hpp"
#include "model/error.hpp"

using namespace convoy::actors;
using namespace rig;
namespace schema = convoy::schema;

namespace {

const std::string connection_key(32, 'c');

/// A machine that asks, and what it hears.
struct Asking {
  explicit Asking(JoinToken with) : token(std::move(with)) {}

  std::vector<Outgoing> ask(const HeadsMachine& head, const std::string& key = connection_key) {
    const auto frame = encode(EnrolRequest{token_id(verifier_of(token)), node, request, listen, 3, {}, http});
    said = frame.bytes();
    const auto proof = prove_enrolment(verifier_of(token), EnrolEnd::machine, key, said).bytes();
    return Enrolment(head.options).answer(connection_key, said, proof);
  }
  EnrolAnswer joined(const HeadsMachine& head) {
    const auto answer = ask(head);
    BOOST_REQUIRE_EQUAL(answer.size(), 2u);
    BOOST_REQUIRE_EQUAL(answer[0].type, schema::FrameTraits<schema::Enrolled>::type_id);
    BOOST_CHECK(
        is_proved(verifier_of(token), EnrolEnd::head, connection_key, answer[0].bytes, answer[1].bytes));
    return read_enrolled(answer[0].bytes);
  }
  EnrolReason refused(const HeadsMachine& head, const std::string& key = connection_key) {
    const auto answer = ask(head, key);
    BOOST_REQUIRE_EQUAL(answer.size(), 1u);
    BOOST_REQUIRE_EQUAL(answer[0].type, schema::FrameTraits<schema::EnrolRefused>::type_id);
    const auto refusal = read_enrol_refused(answer[0].bytes);
    BOOST_TEST_MESSAGE(refusal.text);
    BOOST_CHECK(!refusal.text.empty());
    return refusal.reason;
  }

  JoinToken token;
  CertificateRequest made = make_request();
  std::string node = "new", request = made.request, listen = "127.0.0.1:7413", http;
  schema::FrameBytes said;
};

}  // namespace

BOOST_AUTO_TEST_CASE(a_token_is_one_word_and_reads_back) {
  const JoinToken token = draw_token(std::string(32, '\xfe'));
  const std::string text = text_of(token);
  BOOST_CHECK_EQUAL(text.size(), 5 + 64u);
  BOOST_CHECK_EQUAL(
      text.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"), text.npos);
  const auto read = read_token(text);
  BOOST_REQUIRE(read);
  BOOST_CHECK(read->authority == token.authority);
  BOOST_CHECK(read->secret == token.secret);
  BOOST_CHECK_NE(text_of(draw_token(token.authority)), text);
  for (const std::string& wrong : {std::string(), text.substr(1), text + "A", text.substr(0, 60),
                                   "cvj2_" + text.substr(5), text.substr(0, 68) + "!"})
    BOOST_CHECK(!read_token(wrong));
}

BOOST_AUTO_TEST_CASE(known_tokens_read_back_and_lines_that_are_none_are_left_out) {
  const std::vector<KnownToken> tokens{{std::string(32, 'a'), 3, 1000}, {std::string(32, '\0'), 0, 2000}};
  const auto read =
      read_known_tokens("nonsense\n" + text_of(tokens) + "\n00 1 1\n" + text_of(tokens).substr(0, 60));
  BOOST_REQUIRE_EQUAL(read.size(), 2u);
  BOOST_CHECK(read[0].verifier == tokens[0].verifier && read[0].uses == 3 && read[0].until_s == 1000);
  const auto state = [&](const std::string& verifier, int64_t now_s) {
    return find_token(read, token_id(verifier), now_s).state;
  };
  BOOST_CHECK(state(std::string(32, 'a'), 1000) == TokenState::good);
  BOOST_CHECK(state(std::string(32, 'a'), 1001) == TokenState::expired);
  BOOST_CHECK(state(std::string(32, '\0'), 1000) == TokenState::used);
  BOOST_CHECK(state(std::string(32, 'b'), 1000) == TokenState::unknown);
}

BOOST_AUTO_TEST_CASE(tokens_max_holds_and_old_ones_make_room) {
  std::vector<KnownToken> tokens;
  for (size_t i = 0; i < tokens_max; ++i)
    BOOST_CHECK(add_token(tokens, {std::string(32, static_cast<char>(i)), 1, 1000}, 1000));
  BOOST_CHECK(!add_token(tokens, {std::string(32, 'x'), 1, 5000}, 2000));
  BOOST_CHECK(add_token(tokens, {std::string(32, 'x'), 1, 5000}, 1000 + 86'401));
  BOOST_CHECK_EQUAL(tokens.size(), 1u);
}

BOOST_AUTO_TEST_CASE(nobody_may_try_often) {
  EnrolmentPace pace;
  auto now = EnrolmentPace::Clock::now();
  for (uint32_t i = 0; i < EnrolmentPace::burst; ++i) BOOST_CHECK(pace.take(now));
  BOOST_CHECK(!pace.take(now));
  BOOST_CHECK(!pace.take(now + EnrolmentPace::pause / 2));
  BOOST_CHECK(pace.take(now + EnrolmentPace::pause));
  BOOST_CHECK(!pace.take(now + EnrolmentPace::pause));
}

BOOST_AUTO_TEST_CASE(who_has_a_token_gets_a_certificate_of_its_key_and_the_configuration) {
  HeadsMachine head;
  Asking machine(head.token());
  const EnrolAnswer answer = machine.joined(head);
  BOOST_CHECK(
      !refuse_certificate(answer.certificate, head.authority.certificate(), machine.made.key, "test", "new"));
  BOOST_CHECK(refuse_certificate(answer.certificate, head.authority.certificate(), machine.made.key, "test",
                                 "other"));
  BOOST_CHECK(refuse_certificate(answer.certificate, head.authority.certificate(), make_request().key, "test",
                                 "new"));
  BOOST_CHECK(
      refuse_certificate(answer.certificate, make_authority().certificate, machine.made.key, "test", "new"));
  BOOST_CHECK_EQUAL(answer.authority, head.authority.certificate());
  const auto nodes = read_cluster_config(answer.configuration).config.cluster.nodes;
  BOOST_REQUIRE_EQUAL(nodes.size(), 3u);
  BOOST_CHECK_EQUAL(nodes[2].name, "new");
  BOOST_CHECK_EQUAL(nodes[2].listen, "127.0.0.1:7413");
  BOOST_CHECK_EQUAL(nodes[2].stages, 3u);
  BOOST_REQUIRE_EQUAL(head.added.size(), 1u);  // and the cluster knows it
  BOOST_CHECK_EQUAL(head.added[0].name, "new");
  BOOST_CHECK_EQUAL(head.authority.revoke("new"), 1u);  // what was signed can be taken back
}

BOOST_AUTO_TEST_CASE(who_joins_with_a_gateway_has_one_in_the_configuration) {
  HeadsMachine head;
  Asking machine(head.token());
  machine.http = "127.0.0.1:8081";
  const auto config = read_cluster_config(machine.joined(head).configuration).config;
  const NodeConfig& node = config.cluster.nodes.back();
  BOOST_CHECK_EQUAL(node.name, "new");
  BOOST_CHECK(config.has_own_gateway(node));
  BOOST_CHECK_EQUAL(config.gateway_of(node).port, 8081);
  BOOST_REQUIRE_EQUAL(head.added.size(), 1u);
  BOOST_CHECK_EQUAL(head.added[0].http, "127.0.0.1:8081");  // so that the head lets its gateway in
}

BOOST_AUTO_TEST_CASE(an_address_that_others_reach_needs_keys_and_certificates_of_a_gateway_that_joins_too) {
  HeadsMachine head;
  Asking machine(head.token());
  machine.http = "0.0.0.0:8081";
  BOOST_CHECK(machine.refused(head) == EnrolReason::MALFORMED);
  BOOST_CHECK(head.added.empty());
}

BOOST_AUTO_TEST_CASE(a_token_is_good_as_often_and_as_long_as_it_says) {
  HeadsMachine head;
  Asking machine(head.token(2, 60));
  machine.joined(head);
  machine.node = "second";
  machine.listen = "127.0.0.1:7414";
  const auto nodes = read_cluster_config(machine.joined(head).configuration).config.cluster.nodes;
  BOOST_REQUIRE_EQUAL(nodes.size(), 4u);  // the one that joined before it is there, too
  BOOST_CHECK_EQUAL(nodes[2].name + nodes[3].name, "newsecond");
  machine.node = "third";
  BOOST_CHECK(machine.refused(head) == EnrolReason::USED_TOKEN);
  Asking late(head.token(1, 60));
  head.now_s += 61;
  BOOST_CHECK(late.refused(head) == EnrolReason::EXPIRED_TOKEN);
  BOOST_CHECK_EQUAL(head.added.size(), 2u);
}

BOOST_AUTO_TEST_CASE(who_does_not_know_the_secret_learns_nothing_of_the_token) {
  HeadsMachine head;
  const JoinToken token = head.token();
  Asking stranger(draw_token(token.authority));
  BOOST_CHECK(stranger.refused(head) == EnrolReason::UNKNOWN_TOKEN);
  // It was heard on another connection, by whoever was in between.
  Asking machine(token);
  BOOST_CHECK(machine.refused(head, std::string(32, 'x')) == EnrolReason::UNKNOWN_TOKEN);
  // A request that was changed on the way.
  machine.ask(head, std::string(32, 'x'));
  Asking changed(token);
  changed.node = "changed";
  const auto said =
      encode(EnrolRequest{token_id(verifier_of(token)), "changed", machine.request, "127.0.0.1:1", 1});
  const auto proof = prove_enrolment(verifier_of(token), EnrolEnd::machine, connection_key, machine.said);
  const auto answer = Enrolment(head.options).answer(connection_key, said.bytes(), proof.bytes());
  BOOST_REQUIRE_EQUAL(answer.size(), 1u);
  // One that expired says so to those alone who have it.
  head.now_s += 61;
  BOOST_CHECK(machine.refused(head, std::string(32, 'x')) == EnrolReason::UNKNOWN_TOKEN);
  BOOST_CHECK(machine.refused(head) == EnrolReason::EXPIRED_TOKEN);
  BOOST_CHECK(!head.authority.has_issued("new") && head.added.empty());
}

BOOST_AUTO_TEST_CASE(nobody_takes_the_name_of_a_node_that_has_a_certificate) {
  HeadsMachine head;
  Asking machine(head.token(4));
  machine.node = "here";  // the head's
  BOOST_CHECK(machine.refused(head) == EnrolReason::NAME_TAKEN);
  machine.node = "new";
  machine.joined(head);
  BOOST_CHECK(machine.refused(head) == EnrolReason::NAME_TAKEN);
  head.authority.revoke("new");
  BOOST_CHECK(!machine.joined(head).revocations.empty());
  BOOST_CHECK_EQUAL(head.authority.tokens().at(0).uses, 2u);  // refusals cost none
}

BOOST_AUTO_TEST_CASE(without_others_only_listed_nodes_join_as_they_are_listed) {
  HeadsMachine head(false);
  Asking machine(head.token(2));
  BOOST_CHECK(machine.refused(head) == EnrolReason::UNKNOWN_NODE);
  machine.node = "listed";
  BOOST_CHECK_EQUAL(machine.joined(head).configuration, configuration);
}

BOOST_AUTO_TEST_CASE(what_cannot_be_is_refused) {
  HeadsMachine head;
  Asking machine(head.token(8));
  machine.node = "../up";
  BOOST_CHECK(machine.refused(head) == EnrolReason::MALFORMED);
  machine.node = "new\", roles = [\"gateway";
  BOOST_CHECK(machine.refused(head) == EnrolReason::MALFORMED);
  machine.node = "new";
  machine.listen = "127.0.0.1:7412";  // another's
  BOOST_CHECK(machine.refused(head) == EnrolReason::MALFORMED);
  machine.listen = "nowhere";
  BOOST_CHECK(machine.refused(head) == EnrolReason::MALFORMED);
  machine.listen = std::string(300, 'a');
  BOOST_CHECK(machine.refused(head) == EnrolReason::MALFORMED);
  BOOST_CHECK_EQUAL(head.authority.tokens().at(0).uses, 8u);
  machine.listen = "127.0.0.1:7413";
  machine.request = "no request";
  BOOST_CHECK(machine.refused(head) == EnrolReason::MALFORMED);
  machine.request = machine.made.request;
  head.options.add_member = [](const NodeConfig&) { throw convoy::InputError("no layer is left", "", ""); };
  BOOST_CHECK(machine.refused(head) == EnrolReason::MALFORMED);
  BOOST_CHECK_EQUAL(head.authority.tokens().at(0).uses, 8u);
  BOOST_CHECK(!head.authority.has_issued("new") && head.added.empty());
}

BOOST_AUTO_TEST_CASE(where_the_authoritys_key_is_not_nobody_is_enrolled) {
  HeadsMachine head;
  Asking machine(head.token());
  std::filesystem::remove(head.options.tls_dir / authority_key_file);
  BOOST_CHECK(machine.refused(head) == EnrolReason::NO_AUTHORITY);
}

BOOST_AUTO_TEST_CASE(a_node_is_added_behind_the_others_whatever_the_text_looks_like) {
  const NodeConfig node{"new", "127.0.0.1:7413", {}, 1};
  for (const std::string& text :
       {configuration,
        std::string(
            "[log]\nlevel = \"info\"\n[cluster]\nname=\"t\"\nmodel=\"m ; "
            "[\\\"{\"\nnodes=[{name=\"here\",listen="
            "\"127.0.0.1:7411\",roles=[\"gateway\",\"router\",\"cache\",\"pipeline\"],stages=1}]\n")}) {
    const std::string changed = with_node(text, node);
    const auto read = read_cluster_config(changed);
    BOOST_REQUIRE(read.problems.empty());
    BOOST_CHECK_EQUAL(read.config.cluster.nodes.back().name, "new");
    BOOST_CHECK_EQUAL(read.config.cluster.nodes.size(),
                      read_cluster_config(text).config.cluster.nodes.size() + 1);
  }
  BOOST_CHECK_THROW(with_node("[cluster]\nname = \"t\"\n", node), convoy::InputError);
  BOOST_CHECK_THROW(with_node(configuration, {"here", "127.0.0.1:7413", {}, 1}), convoy::InputError);
}

BOOST_AUTO_TEST_CASE(a_node_may_be_named_as_what_is_revoked_is_marked) {
  HeadsMachine head;
  head.authority.issue("test", "revoked", 30);
  head.authority.issue("test", "listed", 30);
  BOOST_CHECK_EQUAL(head.authority.revoke("listed"), 1u);
  BOOST_CHECK(!head.authority.has_issued("listed"));
  BOOST_CHECK(head.authority.has_issued("revoked"));
  BOOST_CHECK_EQUAL(head.authority.revoke("revoked"), 1u);
  BOOST_CHECK(!head.authority.has_issued("revoked"));
  BOOST_CHECK_THROW(head.authority.revoke("revoked"), convoy::InputError);
}
