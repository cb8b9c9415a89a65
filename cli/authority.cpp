// convoy init and convoy ca: a cluster of several machines, and the certificates by which its nodes know each
// other. Both only read and write files.

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "actors/config/added_node.hpp"
#include "actors/config/cluster_config.hpp"
#include "actors/config_check.hpp"
#include "actors/link/authority.hpp"
#include "actors/link/link_tls.hpp"
#include "actors/process/wall_clock.hpp"
#include "cli/commands.hpp"
#include "cli/http_edge.hpp"
#include "gateway/keys_file.hpp"
#include "model/error.hpp"

namespace convoy::cli {

namespace fs = std::filesystem;

namespace {

struct InitArguments {
  std::string dir = ".", cluster = "convoy", name = "node1", listen = "127.0.0.1:7411",
              http = "127.0.0.1:8080", model, http_certificate, http_key;
  std::vector<std::string> http_names;
  uint32_t stages = 1;
};

std::string configuration(const InitArguments& args) {
  const bool is_path = !args.model.starts_with("random:");
  std::ostringstream text;
  text << "; A cluster of several machines, made by `convoy init`. docs/several-machines.md says how others "
          "join it;\n; docs/configuration.md lists every key.\n\n[cluster]\nname = "
       << actors::quoted(args.cluster) << "\ndev = false\nmodel = "
       << actors::quoted(is_path ? fs::absolute(args.model).lexically_normal().string() : args.model)
       << "\nnodes = [\n  {\n    name = " << actors::quoted(args.name)
       << "\n    listen = " << actors::quoted(args.listen)
       << "\n    roles = [\"gateway\", \"router\", \"cache\", \"pipeline\"]\n    stages = " << args.stages
       << "\n  }\n]\n"
       << gateway_section(args.http, args.http_names, args.http_certificate, args.http_key);
  return text.str();
}

/// Everything of the tenant that keys are of which name none.
std::string first_key(const fs::path& file) {
  gateway::ApiKey key;
  key.role = gateway::KeyRole::admin;
  key.created_s = actors::unix_s();
  key.tenant = "default";
  key.name = "first";
  return gateway::make_key(file, std::move(key));
}

void init(const InitArguments& args) {
  const fs::path dir = fs::absolute(args.dir).lexically_normal();
  const fs::path file = dir / "cluster.conf", tls = dir / actors::ClusterConfig().cluster.tls_dir;
  for (const fs::path& there : {file, tls / actors::authority_file, tls / actors::authority_key_file})
    if (fs::exists(there))
      throw InputError("is there already", there.string(),
                       "choose another --dir, or go on with that cluster");
  const std::string text = configuration(args);
  const auto read = actors::read_cluster_config(text, actors::check_together);
  if (!read.problems.empty()) throw InputError(read.problems.front().text, "what was asked for", "");
  const bool makes_certificate =
      !read.config.gateway.tls_certificate.empty() && args.http_certificate.empty();
  const auto names = certificate_names(read.config.gateway);
  if (makes_certificate) actors::issue_server(actors::make_authority(), names);  // or says which name is none
  actors::Authority authority = actors::Authority::make(tls);
  authority.issue(args.cluster, args.name, actors::node_days);
  if (makes_certificate) authority.issue_gateway(names);
  std::string key;
  if (!read.config.gateway.keys_file.empty()) key = first_key(dir / read.config.gateway.keys_file);
  std::ofstream out(file);
  if (!(out << text).flush())
    throw InputError("cannot be written", file.string(), "make its folder writable");
  std::printf(
      "%s: cluster \"%s\" with node \"%s\"\n%s: its certificates; keep %s here and safe: it makes more of "
      "them\n",
      file.c_str(), args.cluster.c_str(), args.name.c_str(), tls.c_str(), actors::authority_key_file);
  if (makes_certificate)
    std::printf("%s: what clients of https://%s have to trust; `convoy chat` on this machine does\n",
                (tls / actors::authority_file).c_str(), args.http.c_str());
  if (!key.empty())
    std::printf(
        "The first API key, role admin; it is shown this once, and `convoy key create` makes others:\n%s\n",
        key.c_str());
  std::printf("Next: convoy up --config %s\n", file.c_str());
}

/// For the names that cluster.conf allows now. The gateway takes it within a second.
void issue_gateway(const std::string& config_file) {
  const auto config = actors::load_cluster_config(config_file);
  const fs::path made = fs::path(config.cluster.tls_dir) / actors::gateway_folder;
  if (config.gateway.tls_certificate != made / actors::gateway_certificate_file)
    throw InputError("`gateway.tls_certificate` names another file: this cluster's authority did not make it",
                     config.file.string(), "name " + (made / actors::gateway_certificate_file).string());
  const auto names = certificate_names(config.gateway);
  actors::Authority(config.cluster.tls_dir).issue_gateway(names);
  std::printf("%s: valid for %u days, for", config.gateway.tls_certificate.c_str(), actors::node_days);
  for (const std::string& name : names) std::printf(" %s", name.c_str());
  std::puts("");
}

void issue(const std::string& config_file, const std::string& node, int days) {
  const auto config = actors::load_cluster_config(config_file);
  if (!config.find_node(node))
    throw InputError("there is no node \"" + node + "\"", config.file.string() + ": cluster.nodes",
                     "add it there, on every machine, or name one of them");
  const fs::path tls = config.cluster.tls_dir;
  actors::Authority(tls).issue(config.cluster.name, node, days);
  std::printf(
      "%s\n%s: valid for %d days\nCopy both and %s into `cluster.tls_dir` of the machine that runs it, mode "
      "600; %s stays here.\n",
      (tls / actors::key_file(node)).c_str(), (tls / actors::certificate_file(node)).c_str(), days,
      actors::authority_file, actors::authority_key_file);
}

/// All certificates that the node ever had. Nodes that run here find the new list within seconds, and pass it
/// on.
void revoke(const std::string& config_file, const std::string& node) {
  const auto config = actors::load_cluster_config(config_file);
  const fs::path tls = config.cluster.tls_dir;
  const size_t count = actors::Authority(tls).revoke(node);
  std::printf(
      "%s: node %s, %zu certificate(s)\nNodes that run tell each other within seconds; one that does not run "
      "needs a copy of it.\n",
      (tls / actors::revocations_file).c_str(), node.c_str(), count);
}

}  // namespace

void add_init(CLI::App& app, int& exit_code) {
  auto args = std::make_shared<InitArguments>();
  CLI::App* command =
      app.add_subcommand("init", "Make a cluster for several machines: its configuration and certificates");
  command->add_option("--dir", args->dir, "Folder for them")->capture_default_str();
  command->add_option("--model", args->model, "What it serves, as `cluster.model`")->required();
  command->add_option("--cluster", args->cluster, "The cluster's name")->capture_default_str();
  command->add_option("--name", args->name, "This machine's node")->capture_default_str();
  command->add_option("--listen", args->listen, "HOST:PORT, where other machines reach it, in numbers")
      ->capture_default_str();
  command
      ->add_option("--http", args->http,
                   "HOST:PORT to serve HTTP on; HTTPS with keys, unless it is a loopback address")
      ->capture_default_str();
  command->add_option(
      "--http-name", args->http_names,
      "By which others ask for it, instead of this machine's addresses and host name; repeatable");
  command->add_option("--http-certificate", args->http_certificate,
                      "PEM file of its certificate, instead of one that this cluster's authority makes");
  command->add_option("--http-key", args->http_key, "PEM file of that certificate's key");
  command->add_option("--stages", args->stages, "Stages on this machine")->capture_default_str();
  command->callback([=, &exit_code] {
    init(*args);
    exit_code = ok;
  });
}

void add_ca(CLI::App& app, int& exit_code) {
  struct Arguments {
    std::string config = "cluster.conf", node;
    int days = actors::node_days;
  };
  auto args = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand("ca", "Certificates of a cluster's nodes");
  command->require_subcommand(1);
  CLI::App* one = command->add_subcommand("issue", "Make a node's key and certificate, or new ones");
  one->add_option("NODE", args->node, "As cluster.conf names it")->required();
  one->add_option("--config", args->config)->capture_default_str();
  one->add_option("--days", args->days, "Until it ends")->check(CLI::Range(1, 3650))->capture_default_str();
  one->callback([=, &exit_code] {
    issue(args->config, args->node, args->days);
    exit_code = ok;
  });
  CLI::App* gateway = command->add_subcommand(
      "gateway", "Make the gateway's key and certificate anew, for the names in gateway.allowed_hosts");
  gateway->add_option("--config", args->config)->capture_default_str();
  gateway->callback([=, &exit_code] {
    issue_gateway(args->config);
    exit_code = ok;
  });
  CLI::App* none = command->add_subcommand("revoke", "Let a node's certificates count no more");
  none->add_option("NODE", args->node, "Whose")->required();
  none->add_option("--config", args->config)->capture_default_str();
  none->callback([=, &exit_code] {
    revoke(args->config, args->node);
    exit_code = ok;
  });
}

}  // namespace convoy::cli
