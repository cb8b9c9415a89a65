// A stream behind its end.

#include "gateway/either_stream.hpp"

#include <array>
#include <boost/test/unit_test.hpp>
#include <optional>

#include "test/patience.hpp"

namespace convoy::gateway::test {

namespace {

using Socket = asio::local::stream_protocol::socket;

struct Pair {
  asio::io_context io;
  Socket other{io};
  StaysEnded<Socket> ours{make()};

  Socket make() {
    Socket socket(io);
    asio::local::connect_pair(socket, other);
    return socket;
  }
  /// Nothing: the read does not return.
  std::optional<std::pair<boost::system::error_code, size_t>> read() {
    std::optional<std::pair<boost::system::error_code, size_t>> result;
    std::array<char, 16> bytes;
    ours.async_read_some(asio::buffer(bytes),
                         [&](boost::system::error_code ec, size_t n) { result.emplace(ec, n); });
    io.restart();
    io.run_for(convoy::test::patience);
    return result;
  }
};

}  // namespace

BOOST_AUTO_TEST_CASE(every_read_behind_the_end_says_the_end) {
  Pair pair;
  asio::write(pair.other, asio::buffer("abc", 3));
  pair.other.close();
  const auto first = pair.read();
  BOOST_TEST_REQUIRE(first.has_value());
  BOOST_TEST(!first->first);
  BOOST_TEST(first->second == 3u);
  for (int i = 0; i < 3; ++i) {
    const auto end = pair.read();
    BOOST_TEST_REQUIRE(end.has_value());
    BOOST_TEST((end->first == asio::error::eof));
    BOOST_TEST(end->second == 0u);
  }
}

BOOST_AUTO_TEST_CASE(a_read_that_was_called_off_is_no_end) {
  Pair pair;
  asio::post(pair.io, [&] { pair.ours.next().cancel(); });
  const auto called_off = pair.read();
  BOOST_TEST_REQUIRE(called_off.has_value());
  BOOST_TEST((called_off->first == asio::error::operation_aborted));
  asio::write(pair.other, asio::buffer("abc", 3));
  const auto next = pair.read();
  BOOST_TEST_REQUIRE(next.has_value());
  BOOST_TEST(next->second == 3u);
}

}  // namespace convoy::gateway::test
