// The fixed header and the Hello: what is refused before memory is taken or a peer is believed.

#include "actors/link_wire.hpp"

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
  return {.protocol_version = wire::protocol_version,
          .cluster = "a",
          .peer = {.node = "n", .role = Role::STAGE, .instance = 2}};
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
  const auto theirs = wire::read_greeting(wire::encode(mine));
  BOOST_CHECK(!wire::refuse_greeting(theirs, "a"));
  BOOST_CHECK_EQUAL(theirs.peer.node, "n");
  BOOST_CHECK(theirs.bulk);
  BOOST_CHECK_EQUAL(theirs.link_id, 77u);
  BOOST_CHECK_EQUAL(theirs.peer.incarnation, 5u);
  BOOST_CHECK_EQUAL(theirs.peer.listen_port, 4711);
}

BOOST_AUTO_TEST_CASE(a_hello_is_refused_with_both_sides_values) {
  auto other = greeting();
  other.protocol_version = 9;
  BOOST_CHECK_EQUAL(*wire::refuse_greeting(other, "a"), "protocol version 9 there, 2 here");
  BOOST_CHECK_EQUAL(*wire::refuse_greeting(greeting(), "b"), "cluster \"a\" there, \"b\" here");
  other = greeting();
  other.peer.role = Role::ROUTER;
  BOOST_CHECK(wire::refuse_greeting(other, "a"));
  other = greeting();
  other.peer.node = "";
  BOOST_CHECK(wire::refuse_greeting(other, "a"));
  other.peer.node = std::string(wire::name_bytes_max + 1, 'x');
  BOOST_CHECK(wire::refuse_greeting(other, "a"));
}
