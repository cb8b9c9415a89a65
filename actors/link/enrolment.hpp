#pragma once
// Enrolment: how the head answers a machine that wants to join with a token: checks that, signs the machine's
// key and says what it must know. Called by links for each connection in TLS that shows no certificate, one
// at a time, on a thread that may wait for a disk.

#include <chrono>
#include <filesystem>
#include <functional>
#include <string>
#include <variant>
#include <vector>

#include "actors/config/cluster_config.hpp"
#include "actors/link/authority.hpp"
#include "actors/link/enrolment_wire.hpp"
#include "actors/link/link_stream.hpp"

namespace convoy::actors {

struct EnrolmentOptions {
  std::string cluster;
  std::filesystem::path tls_dir;  // where the authority's key is, if it is on this machine
  std::string configuration;      // cluster.conf as this process read it
  /// That the cluster has now: those of cluster.conf, and those that joined since, in this order.
  std::function<std::vector<NodeConfig>()> nodes;
  /// Makes one more node known to the cluster; throws InputError, whose problem the machine is told, if that
  /// cannot be. A node whose certificate fails after it never comes. Called on the thread that answer() is.
  /// Null: only nodes that cluster.conf lists can join.
  std::function<void(const NodeConfig&)> add_member;
  std::function<int64_t()> now_s;  // Unix time
};

class Enrolment {
 public:
  explicit Enrolment(EnrolmentOptions options) : options_(std::move(options)) {}

  /// What is said to whoever said that, with that proof. connection_key: of the connection.
  std::vector<Outgoing> answer(const std::string& connection_key, const schema::FrameBytes& said,
                               const schema::FrameBytes& proof);

  /// Another certificate for a node that is linked with one; empty, after a line in the log, if it gets none.
  std::string renew(const std::string& node, const std::string& request);

 private:
  struct Accepted {
    EnrolAnswer answer;
    std::string verifier;
  };
  std::variant<Accepted, EnrolRefusal> decide(const std::string& connection_key,
                                              const schema::FrameBytes& said,
                                              const schema::FrameBytes& proof);
  std::string configuration_with(const std::vector<NodeConfig>& nodes) const;

  const EnrolmentOptions options_;
};

/// When new connections may enrol: some at once, then one each pause, so that nobody can try many tokens or
/// keep the disk busy. For one thread.
class EnrolmentPace {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr uint32_t burst = 10;
  static constexpr std::chrono::milliseconds pause{1000};

  bool take(Clock::time_point now);

 private:
  uint32_t left_ = burst;
  Clock::time_point since_{};  // when it had that many left
};

}  // namespace convoy::actors
