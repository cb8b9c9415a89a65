#include "actors/config_check.hpp"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <charconv>
#include <fstream>
#include <set>
#include <system_error>

#include "actors/cache/redis_client.hpp"
#include "actors/link/link_address.hpp"
#include "model/chat/chat_template.hpp"
#include "model/checkpoint/random_model.hpp"
#include "model/error.hpp"
#include "model/json.hpp"
#include "model/nearest.hpp"

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
    if (!is_plain_name(node.name))
      conflicts.push_back({path + ".name", "node name \"" + node.name + "\"; " + plain_name_rule});
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
    if (!node.roles.empty()) ++heads;
    if (!node.roles.empty() && node.roles.size() != roles_count)
      conflicts.push_back({path + ".roles", "node \"" + node.name + "\" has " +
                                                std::to_string(node.roles.size()) +
                                                " of the four roles; in this version one node has all: "
                                                "[\"gateway\", \"router\", \"cache\", \"pipeline\"]"});
  }
  if (heads != 1)
    conflicts.push_back({"cluster.nodes",
                         std::to_string(heads) +
                             " nodes have roles; in this version exactly one has [\"gateway\", "
                             "\"router\", \"cache\", \"pipeline\"]",
                         all_roles});
  if (config.stage_count() == 0)
    conflicts.push_back({"cluster.nodes", "no node has stages; give `stages = 1` or more", all_stages});
}

void check_model_names(const ClusterConfig& config, Conflicts& conflicts) {
  const auto templates = model::ChatTemplate::names();
  const std::string& chosen = config.cluster.chat_template;
  if (!chosen.empty() && !model::ChatTemplate::is_path(chosen) &&
      std::find(templates.begin(), templates.end(), chosen) == templates.end())
    conflicts.push_back(
        {"cluster.chat_template",
         "`cluster.chat_template` is " + model::in_quotes(chosen) +
             ", which is no template that comes with Convoy, nor a file's path (which ends in "
             ".jinja or has a slash)" +
             model::suggestion(chosen, templates)});
  if (!model::names_random_model(config.cluster.model)) return;
  try {
    model::random_config_json(model::parse_random_model(config.cluster.model));
  } catch (const InputError& e) {
    conflicts.push_back({"cluster.model", "`cluster.model` is \"" + config.cluster.model +
                                              "\": " + e.problem() + "; " + e.mend()});
  }
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
  if (!loopback_endpoint(config.gateway.host, 0))
    conflicts.push_back(
        {"gateway.host",
         "`gateway.host` is \"" + config.gateway.host +
             "\", which is not a loopback address; this version has neither TLS nor keys, use 127.0.0.1"});
  check_model_names(config, conflicts);
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
  if (config.link.bulk_frame_bytes_max > config.link.queue_bytes_max)
    conflicts.push_back({"link.queue_bytes_max",
                         "`link.queue_bytes_max` = " + std::to_string(config.link.queue_bytes_max) +
                             " is less than `link.bulk_frame_bytes_max` = " +
                             std::to_string(config.link.bulk_frame_bytes_max) +
                             ", so the longest frame could never be sent; raise it",
                         {"link.bulk_frame_bytes_max"}});
  return conflicts;
}

namespace {

/// What is wrong with a model that should be there; empty: nothing.
std::string model_problem(const std::filesystem::path& path) {
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  if (error || !std::filesystem::exists(status))
    return (error ? error : std::make_error_code(std::errc::no_such_file_or_directory)).message();
  const bool folder = std::filesystem::is_directory(status);
  const auto first = folder ? path / "config.json" : path;
  std::ifstream file(first, std::ios::binary);
  if (!file) {
    const std::error_code reason(errno, std::generic_category());
    return folder ? "the folder's config.json: " + reason.message() : reason.message();
  }
  std::string magic(4, '\0');
  if (!folder && (!file.read(magic.data(), 4) || magic != "GGUF"))
    return "is neither a GGUF file nor a folder with config.json and safetensors";
  return "";
}

void check_template_file(const ClusterConfig& config, const std::filesystem::path& folder,
                         Conflicts& conflicts) {
  const std::string& chosen = config.cluster.chat_template;
  if (!model::ChatTemplate::is_path(chosen)) return;
  try {
    model::ChatTemplate::named((folder / chosen).string(), {});
  } catch (const InputError& e) {
    conflicts.push_back({"cluster.chat_template", "`cluster.chat_template` is " + model::in_quotes(chosen) +
                                                      ": " + e.where() + ": " + e.problem() + "; " +
                                                      e.mend()});
  }
}

void check_model_file(const ClusterConfig& config, const std::filesystem::path& folder,
                      Conflicts& conflicts) {
  if (model::names_random_model(config.cluster.model)) return;
  const std::string path = model::resolve_model(config.cluster.model, folder);
  const std::string problem = model_problem(path);
  if (problem.empty()) return;
  conflicts.push_back({"cluster.model", "`cluster.model` is \"" + config.cluster.model + "\": " + path +
                                            ": " + problem +
                                            "; give the path of a model (scripts/fetch-model fetches one)"});
}

}  // namespace

Conflicts check_files(const ClusterConfig& config, const std::filesystem::path& folder) {
  Conflicts conflicts;
  check_template_file(config, folder, conflicts);
  check_model_file(config, folder, conflicts);
  return conflicts;
}

}  // namespace convoy::actors
