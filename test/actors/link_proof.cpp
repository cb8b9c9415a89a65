// Whether the other end knows the secret: what passes, and that nothing heard before or elsewhere does.

#include "actors/link/link_proof.hpp"

#include <boost/test/unit_test.hpp>
#include <cstring>

#include "actors/process/secret.hpp"

using namespace convoy::actors;
namespace schema = convoy::schema;
using End = LinkProof::End;

namespace {

const std::string key = link_key(std::string(secret_bytes, 's')), other_key(32, 'x');
const std::string here = "127.0.0.1:7411";
constexpr uint16_t hello_type = 1;

schema::FrameBytes hello(uint64_t link_id = 1) {
  schema::FrameBuilder<schema::Hello> builder;
  builder->setLinkId(link_id);
  return std::move(builder).finish().bytes();
}

/// Both ends of a connection, after the challenges.
struct Pair {
  Pair(const std::string& connector_key, const std::string& acceptor_key,
       const std::string& listening_at = here)
      : connector(connector_key, End::connector, here), acceptor(acceptor_key, End::acceptor, listening_at) {
    BOOST_REQUIRE(!acceptor.refuse_challenge(connector.challenge()));
    acceptor_refused = connector.refuse_challenge(acceptor.challenge());
  }
  LinkProof connector, acceptor;
  std::optional<std::string> acceptor_refused;
};

}  // namespace

BOOST_AUTO_TEST_CASE(two_that_know_the_secret_believe_each_other) {
  Pair pair(key, key);
  BOOST_CHECK(!pair.acceptor_refused);
  BOOST_CHECK(!pair.acceptor.refuse(hello_type, hello(), pair.connector.prove(hello_type, hello())));
  BOOST_CHECK(!pair.connector.refuse(hello_type, hello(2), pair.acceptor.prove(hello_type, hello(2))));
}

BOOST_AUTO_TEST_CASE(each_end_notices_that_the_other_has_another_secret) {
  Pair pair(key, other_key);
  BOOST_CHECK(pair.acceptor_refused);  // before anything is said
  BOOST_CHECK(pair.acceptor.refuse(hello_type, hello(), pair.connector.prove(hello_type, hello())));
}

BOOST_AUTO_TEST_CASE(what_is_passed_on_from_another_address_is_refused) {
  Pair pair(key, key, "127.0.0.1:7412");  // whoever sits between listens elsewhere
  BOOST_CHECK(pair.acceptor_refused);
  BOOST_CHECK(pair.acceptor.refuse(hello_type, hello(), pair.connector.prove(hello_type, hello())));
}

BOOST_AUTO_TEST_CASE(a_proof_is_good_once_on_one_connection) {
  Pair first(key, key), second(key, key);
  const auto recorded = first.connector.prove(hello_type, hello());
  BOOST_CHECK(!first.acceptor.refuse(hello_type, hello(), recorded));
  BOOST_CHECK(first.acceptor.refuse(hello_type, hello(), recorded));   // again
  BOOST_CHECK(second.acceptor.refuse(hello_type, hello(), recorded));  // elsewhere
}

BOOST_AUTO_TEST_CASE(a_whole_recorded_conversation_is_worth_nothing) {
  LinkProof connector(key, End::connector, here), acceptor(key, End::acceptor, here);
  const auto challenge = connector.challenge();
  BOOST_REQUIRE(!acceptor.refuse_challenge(challenge));
  BOOST_REQUIRE(!connector.refuse_challenge(acceptor.challenge()));
  const auto proof = connector.prove(hello_type, hello());
  LinkProof later(key, End::acceptor, here);
  BOOST_REQUIRE(!later.refuse_challenge(challenge));
  later.challenge();
  BOOST_CHECK(later.refuse(hello_type, hello(), proof));
}

BOOST_AUTO_TEST_CASE(an_ends_own_words_are_not_taken_from_the_other) {
  Pair pair(key, key);
  const auto own = pair.acceptor.prove(hello_type, hello());
  Pair same(key, key);
  const auto said = same.acceptor.prove(hello_type, hello());
  BOOST_CHECK(same.acceptor.refuse(hello_type, hello(), said));
  BOOST_CHECK(pair.acceptor.refuse(hello_type, hello(), own));
}

BOOST_AUTO_TEST_CASE(a_changed_frame_or_type_is_refused) {
  for (const bool type : {false, true}) {
    Pair pair(key, key);
    const auto proof = pair.connector.prove(hello_type, hello());
    BOOST_CHECK(pair.acceptor.refuse(type ? 2 : hello_type, type ? hello() : hello(7), proof));
  }
}

BOOST_AUTO_TEST_CASE(a_challenge_of_another_size_is_refused) {
  for (const unsigned bytes : {0, 31, 33}) {
    schema::FrameBuilder<schema::Challenge> challenge;
    challenge->initNonce(bytes);
    LinkProof acceptor(key, End::acceptor, here);
    BOOST_CHECK(acceptor.refuse_challenge(std::move(challenge).finish()));
  }
}

BOOST_AUTO_TEST_CASE(a_mac_that_is_cut_short_is_refused) {
  for (const unsigned bytes : {0, 1, 31}) {
    Pair pair(key, key);
    const auto proof = pair.connector.prove(hello_type, hello());
    schema::FrameBuilder<schema::Proof> cut;
    std::memcpy(cut->initMac(bytes).begin(), schema::Reading(proof)->getMac().begin(), bytes);
    BOOST_CHECK(pair.acceptor.refuse(hello_type, hello(), std::move(cut).finish()));
  }
}
