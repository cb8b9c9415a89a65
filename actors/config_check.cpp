#include "actors/config_check.hpp"

#include <algorithm>
#include <charconv>
#include <set>

#include "actors/cache/redis_client.hpp"
#include "actors/config/plain_name.hpp"
#include "actors/link/link_address.hpp"
#include "model/error.hpp"

namespace convoy::actors {

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

bool is_gateway_alone(const NodeConfig& node) { return node.roles == std::vector<std::string>{"gateway"}; }

/// key: where the host stands.
void check_gateway_host(const ClusterConfig::Gateway& gateway, const std::string& key, Conflicts& conflicts) {
  const std::string host = "`" + key + "` is \"" + gateway.host + "\", which is ";
  if (!numeric_endpoint(gateway.host, 0))
    conflicts.push_back(
        {key, host + "no address, and names are not looked up; give one in numbers, as 127.0.0.1"});
  else if (!is_gateway_guarded(gateway))
    conflicts.push_back(
        {key,
         host + "not a loopback address: there it needs `gateway.keys_file`, `gateway.tls_certificate` and "
                "`gateway.tls_key`, which `convoy init --http` makes; give them, or use 127.0.0.1",
         {"gateway.keys_file", "gateway.tls_certificate", "gateway.tls_key"}});
}

/// Gateways beside the head's: where each listens.
void check_http(const ClusterConfig& config, Conflicts& conflicts) {
  const auto& nodes = config.cluster.nodes;
  const auto place = [](const NodeConfig& node, const ClusterConfig::Gateway& gateway) {
    return split_address(node.listen).first + " " + gateway.host + ":" + std::to_string(gateway.port);
  };
  std::set<std::string> taken;
  for (const NodeConfig& node : nodes)
    if (node.has_role("gateway") && !is_gateway_alone(node)) taken.insert(place(node, config.gateway));
  for (size_t i = 0; i < nodes.size(); ++i) {
    const NodeConfig& node = nodes[i];
    const std::string path = "cluster.nodes[" + std::to_string(i) + "]", name = path + ".http";
    if (!is_gateway_alone(node)) {
      if (!node.http.empty())
        conflicts.push_back(
            {name, node.roles.empty()
                       ? "`" + name + "` is of a node without a gateway; give it roles = [\"gateway\"]"
                       : "`" + name + "` is of the head, whose gateway listens where `gateway.host` and " +
                             "`gateway.port` say; leave it out"});
      continue;
    }
    if (!node.http.empty() && split_address(node.http).second < 0) {
      conflicts.push_back(
          {name, "`" + name + "` is \"" + node.http + "\"; give \"HOST:PORT\", as \"127.0.0.1:8081\""});
      continue;
    }
    const ClusterConfig::Gateway gateway = config.gateway_of(node);
    if (!node.http.empty()) check_gateway_host(gateway, name, conflicts);
    if (gateway.port != 0 && !taken.insert(place(node, gateway)).second)
      conflicts.push_back({path + ".roles",
                           "two gateways of one machine listen on port " + std::to_string(gateway.port) +
                               "; give node \"" + node.name + "\" an `http` of its own",
                           {"gateway.port", "gateway.host"}});
  }
}

void check_nodes(const ClusterConfig& config, Conflicts& conflicts) {
  const auto& nodes = config.cluster.nodes;
  std::set<std::string> names, addresses;
  size_t heads = 0;
  std::vector<std::string> all_roles, all_stages;
  const size_t roles_count = 4;
  for (size_t i = 0; i < nodes.size(); ++i) {
    const std::string path = "cluster.nodes[" + std::to_string(i) + "]";
    const NodeConfig& node = nodes[i];
    all_roles.push_back(path + ".roles");
    all_stages.push_back(path + ".stages");
    const auto [host, port] = split_address(node.listen);
    if (!names.insert(node.name).second)
      conflicts.push_back(
          {path + ".name", "two nodes are named \"" + node.name + "\"; give each its own name"});
    if (!is_node_name(node.name))
      conflicts.push_back({path + ".name", "node name \"" + node.name + "\"; " + node_name_rule});
    if (port < 0)
      conflicts.push_back({path + ".listen", "`" + path + ".listen` is \"" + node.listen +
                                                 "\"; give \"HOST:PORT\", as \"127.0.0.1:7411\""});
    else if (config.cluster.dev && !loopback_endpoint(host, 0))
      conflicts.push_back({path + ".listen",
                           "`" + path + ".listen` is \"" + node.listen +
                               "\", which is not a loopback address; links are plaintext as `cluster.dev` is "
                               "true: use 127.0.0.1, or set it to false",
                           {"cluster.dev"}});
    else if (const auto to = numeric_endpoint(host, 0); !to || to->address().is_unspecified())
      conflicts.push_back({path + ".listen", "`" + path + ".listen` is \"" + node.listen +
                                                 "\"; give the address that other machines connect to, in "
                                                 "numbers, as \"10.0.0.1:7411\""});
    else if (port == 0 && nodes.size() > 1)
      conflicts.push_back(
          {path + ".listen", "port 0 in a cluster of " + std::to_string(nodes.size()) +
                                 " nodes, which could not find each other; give each a port"});
    else if (port != 0 && !addresses.insert(node.listen).second)
      conflicts.push_back(
          {path + ".listen", "two nodes listen on " + node.listen + "; give each its own port"});
    else if (port != 0 && port == config.gateway.port && host == config.gateway.host)
      conflicts.push_back(
          {path + ".listen",
           "node and gateway both listen on " + node.listen + "; change `gateway.port` or this port",
           {"gateway.port", "gateway.host"}});
    if (node.roles.empty() || is_gateway_alone(node)) continue;
    ++heads;
    if (node.roles.size() != roles_count)
      conflicts.push_back({path + ".roles", "node \"" + node.name + "\" has " +
                                                std::to_string(node.roles.size()) +
                                                " of the four roles; the head has all: [\"gateway\", "
                                                "\"router\", \"cache\", \"pipeline\"], and other nodes "
                                                "[\"gateway\"] or none"});
  }
  if (heads != 1)
    conflicts.push_back({"cluster.nodes",
                         std::to_string(heads) +
                             " nodes have the roles of the head; exactly one has [\"gateway\", "
                             "\"router\", \"cache\", \"pipeline\"]",
                         all_roles});
  if (config.stage_count() == 0)
    conflicts.push_back({"cluster.nodes", "no node has stages; give `stages = 1` or more", all_stages});
}

void check_gateway(const ClusterConfig::Gateway& gateway, Conflicts& conflicts) {
  if (gateway.tls_certificate.empty() != gateway.tls_key.empty())
    conflicts.push_back({"gateway.tls_certificate",
                         "`gateway.tls_certificate` and `gateway.tls_key` go together; give both, or none",
                         {"gateway.tls_key"}});
  check_gateway_host(gateway, "gateway.host", conflicts);
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

bool is_gateway_guarded(const ClusterConfig::Gateway& gateway) {
  return loopback_endpoint(gateway.host, 0) ||
         (!gateway.keys_file.empty() && !gateway.tls_certificate.empty() && !gateway.tls_key.empty());
}

Conflicts check_together(const ClusterConfig& config) {
  Conflicts conflicts;
  check_nodes(config, conflicts);
  if (!is_plain_name(config.cluster.name))
    conflicts.push_back({"cluster.name", "cluster name \"" + config.cluster.name + "\"; " + plain_name_rule});
  check_gateway(config.gateway, conflicts);
  check_http(config, conflicts);
  check_models(config, conflicts);
  check_redis(config, conflicts);
  if (config.pipeline.kv_tokens != 0 && config.pipeline.context_tokens_max > config.pipeline.kv_tokens)
    conflicts.push_back(
        {"pipeline.context_tokens_max",
         "`pipeline.context_tokens_max` is " + std::to_string(config.pipeline.context_tokens_max) +
             ", more than `pipeline.kv_tokens` = " + std::to_string(config.pipeline.kv_tokens) +
             " can hold; lower it or raise the other",
         {"pipeline.kv_tokens"}});
  if (config.link.bulk_frame_bytes_max > config.link.bulk_window_bytes)
    conflicts.push_back({"link.bulk_window_bytes",
                         "`link.bulk_window_bytes` = " + std::to_string(config.link.bulk_window_bytes) +
                             " is less than `link.bulk_frame_bytes_max` = " +
                             std::to_string(config.link.bulk_frame_bytes_max) +
                             ", so the longest frame could never be sent; raise it",
                         {"link.bulk_frame_bytes_max"}});
  constexpr uint64_t beside_data = 1024;  // of a frame
  if (config.store.part_bytes + beside_data > config.link.bulk_frame_bytes_max)
    conflicts.push_back({"store.part_bytes",
                         "`store.part_bytes` = " + std::to_string(config.store.part_bytes) +
                             " does not fit into a frame of `link.bulk_frame_bytes_max` = " +
                             std::to_string(config.link.bulk_frame_bytes_max) + "; lower it",
                         {"link.bulk_frame_bytes_max"}});
  if ((config.store.part_bytes + beside_data) * config.store.parts_in_flight > config.link.queue_bytes_max)
    conflicts.push_back({"store.parts_in_flight",
                         "`store.parts_in_flight` = " + std::to_string(config.store.parts_in_flight) +
                             " parts of `store.part_bytes` are more than `link.queue_bytes_max` = " +
                             std::to_string(config.link.queue_bytes_max) + "; lower it",
                         {"link.queue_bytes_max", "store.part_bytes"}});
  if (config.link.bulk_frame_bytes_max > config.link.queue_bytes_max)
    conflicts.push_back({"link.queue_bytes_max",
                         "`link.queue_bytes_max` = " + std::to_string(config.link.queue_bytes_max) +
                             " is less than `link.bulk_frame_bytes_max` = " +
                             std::to_string(config.link.bulk_frame_bytes_max) +
                             ", so the longest frame could never be sent; raise it",
                         {"link.bulk_frame_bytes_max"}});
  return conflicts;
}

}  // namespace convoy::actors
