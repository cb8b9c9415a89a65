// convoy join: makes this machine a node of a cluster whose head gave out a token. Its key is made here, and
// stays.

#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <filesystem>
#include <string>

#include "actors/config/cluster_config.hpp"
#include "actors/config/plain_name.hpp"
#include "actors/config_check.hpp"
#include "actors/link/join_cluster.hpp"
#include "actors/link/link_address.hpp"
#include "actors/link/link_tls.hpp"
#include "actors/process/private_files.hpp"
#include "cli/commands.hpp"
#include "cli/unavailable.hpp"
#include "gpu/devices.hpp"
#include "model/checkpoint/checkpoint.hpp"
#include "model/error.hpp"

namespace convoy::cli {

namespace fs = std::filesystem;

namespace {

struct JoinArguments {
  std::string head, token, name, stages = "auto", pipeline, dir = ".", listen, http;
  uint32_t timeout_ms = 15'000;
};

std::string host_name() {
  char name[256] = {};
  if (::gethostname(name, sizeof name - 1) != 0) return {};
  const std::string whole = name;
  return whole.substr(0, whole.find('.'));
}

uint32_t stages_of(const std::string& text) {
  if (text == "auto") return gpu::devices_here();
  uint32_t stages = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), stages);
  if (error != std::errc() || end != text.data() + text.size() || stages > actors::enrol_stages_max)
    throw InputError("\"" + text + "\" is no number of stages", "--stages", "give one, or auto");
  return stages;
}

actors::JoinOrder order_of(const JoinArguments& args) {
  actors::JoinOrder order;
  const auto [host, port] = actors::split_address(args.head);
  if (port < 1 || !actors::numeric_endpoint(host, 0))
    throw InputError("\"" + args.head + "\" is no address", "HOST:PORT",
                     "give that of the head's node, in numbers, as `convoy token create` printed it");
  const auto token = actors::read_token(args.token);
  if (!token)
    throw InputError("is no token", "--token", "give the whole word that `convoy token create` printed");
  order.host = host;
  order.port = static_cast<uint16_t>(port);
  order.token = *token;
  order.node = args.name.empty() ? host_name() : args.name;
  if (!actors::is_node_name(order.node))
    throw InputError("\"" + order.node + "\" is no name of a node",
                     args.name.empty() ? "host name" : "--name",
                     std::string("give --name: ") + actors::node_name_rule);
  order.listen = args.listen.empty() ? ":" + std::to_string(port) : args.listen;
  order.stages = stages_of(args.stages);
  order.pipeline = args.pipeline;
  if (!args.http.empty() && actors::split_address(args.http).second < 0)
    throw InputError("no port in \"" + args.http + "\"", "--http", "give HOST:PORT, as 127.0.0.1:8080");
  order.http = args.http;
  order.timeout = std::chrono::milliseconds(args.timeout_ms);
  return order;
}

/// The configuration comes last: where it is, everything is.
void write_files(const fs::path& file, const actors::JoinOrder& order, const actors::Joined& joined) {
  const auto config = actors::read_cluster_config(joined.configuration).config;
  const fs::path tls = file.parent_path() / config.cluster.tls_dir;
  actors::make_private_folder(tls);
  actors::replace_private(tls / actors::authority_file, joined.authority);
  if (!joined.revocations.empty())
    actors::replace_private(tls / actors::revocations_file, joined.revocations);
  actors::write_identity(tls, order.node, {joined.certificate, joined.key});
  actors::replace_private(file, joined.configuration);
}

void join(const JoinArguments& args) {
  const fs::path file = fs::absolute(args.dir).lexically_normal() / "cluster.conf";
  if (fs::exists(file))
    throw InputError("is there already", file.string(), "choose another --dir, or go on with that cluster");
  const actors::JoinOrder order = order_of(args);
  fs::create_directories(file.parent_path());
  const actors::Joined joined = actors::join_cluster(order);
  if (!joined.failed.empty()) throw Unavailable(args.head + ": " + joined.failed);
  if (!joined.refused.empty()) throw InputError(joined.refused, args.head, "");
  write_files(file, order, joined);
  const auto config = actors::load_cluster_config(file);
  std::printf("%s: node \"%s\" of cluster \"%s\", at %s\n", file.c_str(), order.node.c_str(),
              config.cluster.name.c_str(), config.find_node(order.node)->listen.c_str());
  const auto* const pipeline = config.find_pipeline(config.find_node(order.node)->pipeline);
  if (const std::string& path = config.model_of(*pipeline).path; !model::Checkpoint::is_there(path))
    std::printf("%s: not here; its stages fetch the weights of their layers into %s\n", path.c_str(),
                config.store.dir.c_str());
  std::printf("Next: convoy up --config %s\n", file.c_str());
}

}  // namespace

void add_join(CLI::App& app, int& exit_code) {
  auto args = std::make_shared<JoinArguments>();
  CLI::App* command = app.add_subcommand("join", "Make this machine a node of a cluster, with a token");
  command->add_option("HOST:PORT", args->head, "The head's node, as `convoy token create` printed it")
      ->required();
  command->add_option("--token", args->token, "Of `convoy token create`")->required();
  command->add_option("--name", args->name, "This machine's node; its host name if it is not given");
  command->add_option("--stages", args->stages, "Stages on this machine; auto: one for each GPU, or one")
      ->capture_default_str();
  command->add_option("--pipeline", args->pipeline,
                      "Which of the cluster's pipelines they serve; the first if "
                      "it is not given");
  command->add_option("--dir", args->dir, "Folder for its configuration and certificates")
      ->capture_default_str();
  command->add_option("--listen", args->listen,
                      "HOST:PORT where other machines reach it; else the address from which it reaches the "
                      "head, and the same port");
  command->add_option("--http", args->http,
                      "HOST:PORT to serve HTTP on, with a gateway of this machine; none, if it is not given");
  command->add_option("--timeout-ms", args->timeout_ms, "how long the head may take")->capture_default_str();
  command->callback([=, &exit_code] {
    join(*args);
    exit_code = ok;
  });
}

}  // namespace convoy::cli
