// File descriptors: connections leave some to the rest of the process, and where there is none left a client
// is told so.

#include <arpa/inet.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <filesystem>

#include "test/gateway/fake_cluster.hpp"

namespace convoy::gateway::test {

namespace {

/// The process's soft limit of open files, as long as it lives.
class DescriptorLimit {
 public:
  explicit DescriptorLimit(rlim_t soft) {
    BOOST_TEST_REQUIRE(::getrlimit(RLIMIT_NOFILE, &before_) == 0);
    const rlimit limit{soft, before_.rlim_max};
    BOOST_TEST_REQUIRE(::setrlimit(RLIMIT_NOFILE, &limit) == 0);
  }
  ~DescriptorLimit() { ::setrlimit(RLIMIT_NOFILE, &before_); }

 private:
  rlimit before_{};
};

rlim_t open_descriptors() {
  return static_cast<rlim_t>(std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {}));
}

/// Descriptors in every gap below the highest one that is open, as long as it lives: the next one is `limit`.
class NoGaps {
 public:
  NoGaps() {
    int highest = 0;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd"))
      highest = std::max(highest, std::stoi(entry.path().filename()));
    // The iterator's own was among them and is free again: it is filled too, or lies just above.
    for (;;) {
      const int filling = ::dup(0);
      BOOST_TEST_REQUIRE(filling > 0);
      held_.push_back(filling);
      if (filling > highest) break;
    }
    limit = static_cast<rlim_t>(held_.back()) + 1;
  }
  ~NoGaps() {
    for (const int descriptor : held_) ::close(descriptor);
  }

  rlim_t limit = 0;

 private:
  std::vector<int> held_;
};

}  // namespace

BOOST_AUTO_TEST_CASE(connections_leave_descriptors_to_the_rest_of_the_process) {
  constexpr size_t connections = 10;
  const rlim_t limit = open_descriptors() + 200;
  const DescriptorLimit descriptors(limit);
  GatewayOptions options;
  options.descriptors_reserved = static_cast<uint32_t>(limit - connections);
  Cluster cluster(options);
  std::deque<Client> clients;
  for (size_t i = 0; i < connections; ++i)
    BOOST_TEST(clients.emplace_back(cluster.gateway->port()).get("/livez").result_int() == 200u);
  Client more(cluster.gateway->port());
  BOOST_TEST(more.response().result_int() == 503u);
}

BOOST_AUTO_TEST_CASE(a_client_for_whom_there_is_no_descriptor_is_told_so_at_once) {
  Cluster cluster;
  Client served(cluster.gateway->port());  // and stays, so that nothing is closed beside what follows
  BOOST_TEST(served.get("/livez").result_int() == 200u);
  int clients[3];
  for (int& client : clients) client = ::socket(AF_INET, SOCK_STREAM, 0);
  {
    const NoGaps filled;
    const DescriptorLimit none_left(filled.limit);
    for (const int client : clients) {
      const timeval patience{convoy::test::patience.count(), 0};
      ::setsockopt(client, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
      sockaddr_in address{};
      address.sin_family = AF_INET;
      address.sin_port = htons(cluster.gateway->port());
      address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
      BOOST_TEST_REQUIRE(::connect(client, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
      std::string answer;
      char piece[4096];
      for (ssize_t bytes; (bytes = ::recv(client, piece, sizeof piece, 0)) > 0;)
        answer.append(piece, static_cast<size_t>(bytes));
      if (over_tls()) {  // a handshake takes more than a word
        BOOST_TEST(answer.empty());
        continue;
      }
      BOOST_TEST(answer.starts_with("HTTP/1.1 503"), answer);
      BOOST_TEST(answer.find("too_many_connections") != answer.npos);
      BOOST_TEST(answer.find("x-request-id") != answer.npos);
    }
  }
  for (const int client : clients) ::close(client);
  // One more may be told so, or cut off in its handshake, whose accepting began before.
  BOOST_TEST(convoy::test::comes_true([&] {
    try {
      return Client(cluster.gateway->port()).get("/livez").result_int() == 200;
    } catch (const boost::system::system_error&) {
      return false;
    }
  }));
}

}  // namespace convoy::gateway::test
