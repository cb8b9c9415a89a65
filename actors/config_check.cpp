#include "actors/config_check.hpp"

#include <algorithm>
#include <boost/asio/ip/address.hpp>
#include <cctype>
#include <charconv>
#include <set>

#include "actors/redis_client.hpp"
#include "model/error.hpp"

namespace convoy::actors {

namespace {

bool is_loopback(const std::string& host) {
  boost::system::error_code error;
  const auto address = boost::asio::ip::make_address(host, error);
  return !error && address.is_loopback();
}

}  // namespace

std::pair<std::string, int> split_address(std::string_view address) {
  const size_t colon = address.rfind(':');
  if (colon == address.npos) return {std::string(address), -1};
  std::string_view host = address.substr(0, colon), digits = address.substr(colon + 1);
  if (host.size() > 1 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  int port = -1;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), port);
  const bool whole = error == std::errc() && end == digits.data() + digits.size();
  return {std::string(host), whole && port >= 0 && port <= 65'535 ? port : -1};
}

namespace {

using Conflicts = std::vector<ConfigConflict>;

// Names become parts of file names and of log lines.
constexpr size_t name_bytes_max = 63;
constexpr const char* plain_name_rule =
    "use at most 63 letters, digits, '-', '_' and '.', a letter or digit first";

bool is_plain_name(std::string_view name) {
  const auto letter = [](unsigned char c) { return std::isalnum(c) != 0; };
  const auto plain = [&](unsigned char c) { return letter(c) || c == '-' || c == '_' || c == '.'; };
  return !name.empty() && name.size() <= name_bytes_max && letter(static_cast<unsigned char>(name[0])) &&
         std::all_of(name.begin(), name.end(), plain);
}

void check_nodes(const ClusterConfig& config, Conflicts& conflicts) {
  const auto& nodes = config.cluster.nodes;
  std::set<std::string> names, addresses;
  size_t heads = 0;
  const size_t roles_count = 4;
  for (size_t i = 0; i < nodes.size(); ++i) {
    const std::string path = "cluster.nodes[" + std::to_string(i) + "]";
    const NodeConfig& node = nodes[i];
    const auto [host, port] = split_address(node.listen);
    if (!names.insert(node.name).second)
      conflicts.push_back(
          {path + ".name", "two nodes are named \"" + node.name + "\"; give each its own name"});
    if (!is_plain_name(node.name))
      conflicts.push_back({path + ".name", "node name \"" + node.name + "\"; " + plain_name_rule});
    if (port < 0)
      conflicts.push_back({path + ".listen", "`" + path + ".listen` is \"" + node.listen +
                                                 "\"; give \"HOST:PORT\", as \"127.0.0.1:7411\""});
    else if (!is_loopback(host))
      conflicts.push_back(
          {path + ".listen",
           "`" + path + ".listen` is \"" + node.listen +
               "\", which is not a loopback address; links are plaintext in this version, use 127.0.0.1"});
    else if (port == 0 && nodes.size() > 1)
      conflicts.push_back(
          {path + ".listen", "port 0 in a cluster of " + std::to_string(nodes.size()) +
                                 " nodes, which could not find each other; give each a port"});
    else if (port != 0 && !addresses.insert(node.listen).second)
      conflicts.push_back(
          {path + ".listen", "two nodes listen on " + node.listen + "; give each its own port"});
    else if (port != 0 && port == config.gateway.port && host == config.gateway.host)
      conflicts.push_back({path + ".listen", "node and gateway both listen on " + node.listen +
                                                 "; change `gateway.port` or this port"});
    if (!node.roles.empty()) ++heads;
    if (!node.roles.empty() && node.roles.size() != roles_count)
      conflicts.push_back({path + ".roles", "node \"" + node.name + "\" has " +
                                                std::to_string(node.roles.size()) +
                                                " of the four roles; in this version one node has all: "
                                                "[\"gateway\", \"router\", \"cache\", \"pipeline\"]"});
  }
  if (heads != 1)
    conflicts.push_back(
        {"cluster.nodes", std::to_string(heads) +
                              " nodes have roles; in this version exactly one has [\"gateway\", "
                              "\"router\", \"cache\", \"pipeline\"]"});
  if (config.stage_count() == 0)
    conflicts.push_back({"cluster.nodes", "no node has stages; give `stages = 1` or more"});
}

void check_redis(const ClusterConfig& config, Conflicts& conflicts) {
  if (config.redis.url.empty()) return;
  try {
    parse_redis_url(config.redis.url);
  } catch (const InputError& e) {
    conflicts.push_back({"redis.url", "`redis.url` is wrong: " + e.problem() + "; " + e.mend()});
  }
}

}  // namespace

Conflicts check_together(const ClusterConfig& config) {
  Conflicts conflicts;
  check_nodes(config, conflicts);
  if (!is_plain_name(config.cluster.name))
    conflicts.push_back({"cluster.name", "cluster name \"" + config.cluster.name + "\"; " + plain_name_rule});
  if (!config.cluster.dev)
    conflicts.push_back(
        {"cluster.dev",
         "`cluster.dev` is false, but this version has no TLS between processes; set it to true"});
  if (config.gateway.host != "localhost" && !is_loopback(config.gateway.host))
    conflicts.push_back(
        {"gateway.host",
         "`gateway.host` is \"" + config.gateway.host +
             "\", which is not a loopback address; this version has neither TLS nor keys, use 127.0.0.1"});
  check_redis(config, conflicts);
  if (config.pipeline.context_tokens_max > config.pipeline.kv_tokens)
    conflicts.push_back(
        {"pipeline.context_tokens_max",
         "`pipeline.context_tokens_max` is " + std::to_string(config.pipeline.context_tokens_max) +
             ", more than `pipeline.kv_tokens` = " + std::to_string(config.pipeline.kv_tokens) +
             " can hold; lower it or raise the other"});
  if (config.link.bulk_frame_bytes_max > config.link.bulk_window_bytes)
    conflicts.push_back({"link.bulk_window_bytes",
                         "`link.bulk_window_bytes` = " + std::to_string(config.link.bulk_window_bytes) +
                             " is less than `link.bulk_frame_bytes_max` = " +
                             std::to_string(config.link.bulk_frame_bytes_max) +
                             ", so the longest frame could never be sent; raise it"});
  if (config.link.bulk_frame_bytes_max > config.link.queue_bytes_max)
    conflicts.push_back(
        {"link.queue_bytes_max", "`link.queue_bytes_max` = " + std::to_string(config.link.queue_bytes_max) +
                                     " is less than `link.bulk_frame_bytes_max` = " +
                                     std::to_string(config.link.bulk_frame_bytes_max) +
                                     ", so the longest frame could never be sent; raise it"});
  return conflicts;
}

}  // namespace convoy::actors
