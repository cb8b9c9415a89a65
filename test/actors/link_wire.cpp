// The fixed header and the Hello: what is refused before memory is taken or a peer is believed.

#include "actors/link/link_wire.hpp"

#include <boost/test/unit_test.hpp>
#include <cstring>
#include <random>

namespace wire = convoy::actors::wire;
using convoy::schema::Role;

namespace {

constexpr uint64_t limit = 1 << 20;

wire::HeaderBytes good() { return wire::encode(wire::Header{16, Role::STAGE, 3, 4096}); }

template <class T>
std::optional<std::string> refuse_with(size_t offset, T value) {
  auto bytes = good();
  std::memcpy(bytes.data() + offset, &value, sizeof value);
  wire::Header header;
  return wire::refuse_header(bytes, limit, header);
}

wire::Greeting greeting() {
  return {.cluster = "a",
          .peer = {.node = "n", .role = Role::STAGE, .instance = 2},
          .terms = {4096, 4096, 4096, 800}};
}

/// Why a process that says `theirs` is refused by one that would say the ordinary thing.
std::string refused(const wire::Greeting& theirs, const wire::Greeting& ours = greeting()) {
  const auto why = wire::refuse_greeting(theirs, ours);
  return why ? why->reason : "";
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_header_reads_back) {
  wire::Header header;
  BOOST_REQUIRE(!wire::refuse_header(good(), limit, header));
  BOOST_CHECK_EQUAL(header.type, 16);
  BOOST_CHECK(header.role == Role::STAGE);
  BOOST_CHECK_EQUAL(header.instance, 3u);
  BOOST_CHECK_EQUAL(header.payload_bytes, 4096u);
}

BOOST_AUTO_TEST_CASE(a_header_is_little_endian_on_the_wire) {
  const auto bytes = good();
  const unsigned char expected[] = {'C', 'N', 'V', 'Y', 1, 0, 16, 0, 5, 0, 0, 0, 3, 0, 0, 0, 0, 16, 0, 0};
  BOOST_CHECK(std::memcmp(bytes.data(), expected, sizeof expected) == 0);
}

BOOST_AUTO_TEST_CASE(headers_that_lie_are_refused_with_the_reason) {
  BOOST_CHECK(refuse_with<uint32_t>(0, 0x20544547)->find("not a frame's header") !=
              std::string::npos);  // "GET "
  BOOST_CHECK_EQUAL(*refuse_with<uint16_t>(4, 2), "header version 2, here it is 1");
  BOOST_CHECK(refuse_with<uint16_t>(6, 0));
  BOOST_CHECK(refuse_with<uint16_t>(6, wire::message_type_max + 1));
  BOOST_CHECK_EQUAL(*refuse_with<uint64_t>(16, limit + 8), "a frame of 1048584 bytes, the limit is 1048576");
  for (uint64_t bytes : {uint64_t{0}, uint64_t{8}, uint64_t{17}, uint64_t{1} << 63, ~uint64_t{0}})
    BOOST_CHECK(refuse_with<uint64_t>(16, bytes));
  BOOST_CHECK(!refuse_with<uint64_t>(16, limit));
}

BOOST_AUTO_TEST_CASE(random_headers_never_pass_a_limit) {
  for (unsigned seed = 0; seed < 20'000; ++seed) {
    std::mt19937_64 random(seed);
    auto bytes = good();
    for (int flips = 0; flips < 3; ++flips) bytes[random() % bytes.size()] ^= std::byte(1u << random() % 8);
    wire::Header header;
    if (!wire::refuse_header(bytes, limit, header))
      BOOST_REQUIRE_MESSAGE(header.payload_bytes <= limit && header.type <= wire::message_type_max,
                            "seed " << seed);
  }
}

BOOST_AUTO_TEST_CASE(a_hello_reads_back) {
  auto mine = greeting();
  mine.bulk = true;
  mine.link_id = 77;
  mine.peer.incarnation = 5;
  mine.peer.listen_host = "127.0.0.1";
  mine.peer.listen_port = 4711;
  mine.peer.model = "m";
  mine.peer.settings = "s";
  mine.versions = {2, 9};
  const auto theirs = wire::read_greeting(wire::encode(mine));
  BOOST_CHECK_EQUAL(theirs.peer.node, "n");
  BOOST_CHECK(theirs.bulk);
  BOOST_CHECK_EQUAL(theirs.link_id, 77u);
  BOOST_CHECK_EQUAL(theirs.peer.incarnation, 5u);
  BOOST_CHECK_EQUAL(theirs.peer.listen_port, 4711);
  BOOST_CHECK_EQUAL(theirs.peer.model, "m");
  BOOST_CHECK_EQUAL(theirs.peer.settings, "s");
  BOOST_CHECK_EQUAL(theirs.versions.lowest, 2);
  BOOST_CHECK_EQUAL(theirs.versions.newest, 9);
  BOOST_CHECK_EQUAL(theirs.terms.bulk_window_bytes, 4096u);
  BOOST_CHECK_EQUAL(theirs.terms.lease_ms, 800u);
}

BOOST_AUTO_TEST_CASE(a_hello_is_refused_with_both_sides_values) {
  BOOST_CHECK_EQUAL(refused(greeting()), "");
  auto other = greeting();
  other.versions = {9, 10};
  BOOST_CHECK_EQUAL(refused(other),
                    "protocol versions 9 to 10 there, 5 here: run one version of Convoy on all machines");
  other = greeting();
  other.cluster = "b";
  BOOST_CHECK_EQUAL(refused(other), "cluster \"b\" there, \"a\" here");
  other = greeting();
  other.peer.role = Role::ROUTER;
  BOOST_CHECK_NE(refused(other), "");
  other = greeting();
  other.peer.node = "";
  BOOST_CHECK_NE(refused(other), "");
  other.peer.node = std::string(wire::text_bytes_max + 1, 'x');
  BOOST_CHECK_NE(refused(other), "");
  other = greeting();
  other.terms.bulk_window_bytes = 0;
  BOOST_CHECK_NE(refused(other), "");
}

BOOST_AUTO_TEST_CASE(two_versions_meet_at_the_highest_that_both_speak) {
  BOOST_CHECK_EQUAL(wire::common_version({2, 4}, {3, 9}).value(), 4);
  BOOST_CHECK_EQUAL(wire::common_version({3, 9}, {2, 4}).value(), 4);
  BOOST_CHECK_EQUAL(wire::common_version({3, 3}, {1, 3}).value(), 3);
  BOOST_CHECK(!wire::common_version({3, 4}, {1, 2}));
  BOOST_CHECK(!wire::common_version({1, 2}, {3, 4}));
}

BOOST_AUTO_TEST_CASE(a_stage_and_its_head_have_one_model_and_all_have_the_same_settings) {
  auto head = greeting(), stage = greeting();
  head.peer.role = Role::NODE;
  head.peer.model = "1234";
  BOOST_CHECK(wire::refuse_greeting(stage, head)->retry);  // one of them does not know it yet
  stage.peer.model = "5678";
  BOOST_CHECK(!wire::refuse_greeting(stage, head)->retry);
  BOOST_CHECK(refused(stage, head).find("model 5678 there, 1234 here") == 0);
  stage.peer.model = "1234";
  BOOST_CHECK_EQUAL(refused(stage, head), "");
  stage.peer.settings = "kv f16";
  BOOST_CHECK(refused(stage, head).find("settings \"kv f16\" there, \"\" here") == 0);
  auto client = greeting(), node = greeting();
  client.peer.role = Role::CLIENT;
  node.peer.role = Role::NODE;
  BOOST_CHECK_EQUAL(refused(client, head), "");
  BOOST_CHECK_EQUAL(refused(node, head), "");  // it loads nothing itself
  node.peer.settings = "kv f16";
  BOOST_CHECK_NE(refused(node, head), "");
}
