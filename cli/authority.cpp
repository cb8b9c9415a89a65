// convoy init and convoy ca: a cluster of several machines, and the certificates by which its nodes know each
// other. Both only read and write files.

#include <boost/json.hpp>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "actors/config/cluster_config.hpp"
#include "actors/config_check.hpp"
#include "actors/link/certificates.hpp"
#include "actors/link/link_tls.hpp"
#include "actors/process/private_files.hpp"
#include "cli/commands.hpp"
#include "model/error.hpp"

namespace convoy::cli {

namespace fs = std::filesystem;

namespace {

constexpr const char* authority_key_file = "ca.key";
constexpr const char* issued_file =
    "issued";  // beside it: a line for each certificate, serial number and node
constexpr const char* revoked_mark = " revoked";

struct InitArguments {
  std::string dir = ".", cluster = "convoy", name = "node1", listen = "127.0.0.1:7411",
              http = "127.0.0.1:8080", model;
  uint32_t stages = 1;
};

std::vector<std::string> lines_of(const fs::path& file) {
  std::vector<std::string> lines;
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

void write_lines(const fs::path& file, const std::vector<std::string>& lines) {
  std::string text;
  for (const std::string& line : lines) text += line + "\n";
  actors::replace_private(file, text);
}

/// It is noted first: one that nobody knows of could not be revoked.
void note_and_write(const fs::path& folder, const std::string& node, const actors::Identity& identity) {
  auto issued = lines_of(folder / issued_file);
  issued.push_back(actors::serial_of(identity.certificate) + " " + node);
  write_lines(folder / issued_file, issued);
  actors::write_identity(folder, node, identity);
}

/// As a value in cluster.conf.
std::string quoted(const std::string& text) { return boost::json::serialize(boost::json::string(text)); }

std::string configuration(const InitArguments& args) {
  const size_t colon = args.http.rfind(':');
  if (colon == std::string::npos)
    throw InputError("no port in \"" + args.http + "\"", "--http", "give HOST:PORT, as 127.0.0.1:8080");
  const bool is_path = !args.model.starts_with("random:");
  std::ostringstream text;
  text << "; A cluster of several machines, made by `convoy init`. docs/several-machines.md says how others "
          "join it;\n; docs/configuration.md lists every key.\n\n[cluster]\nname = "
       << quoted(args.cluster) << "\ndev = false\nmodel = "
       << quoted(is_path ? fs::absolute(args.model).lexically_normal().string() : args.model)
       << "\nnodes = [\n  {\n    name = " << quoted(args.name) << "\n    listen = " << quoted(args.listen)
       << "\n    roles = [\"gateway\", \"router\", \"cache\", \"pipeline\"]\n    stages = " << args.stages
       << "\n  }\n]\n\n[gateway]\nhost = " << quoted(args.http.substr(0, colon))
       << "\nport = " << args.http.substr(colon + 1) << "\n";
  return text.str();
}

void init(const InitArguments& args) {
  const fs::path dir = fs::absolute(args.dir).lexically_normal();
  const fs::path file = dir / "cluster.conf", tls = dir / actors::ClusterConfig().cluster.tls_dir;
  for (const fs::path& there : {file, tls / actors::authority_file, tls / authority_key_file})
    if (fs::exists(there))
      throw InputError("is there already", there.string(),
                       "choose another --dir, or go on with that cluster");
  const std::string text = configuration(args);
  const auto read = actors::read_cluster_config(text, actors::check_together);
  if (!read.problems.empty()) throw InputError(read.problems.front().text, "what was asked for", "");
  actors::make_private_folder(tls);
  const actors::Identity authority = actors::make_authority();
  actors::replace_private(tls / authority_key_file, authority.key);
  actors::replace_private(tls / actors::authority_file, authority.certificate);
  note_and_write(tls, args.name, actors::issue(authority, args.cluster, args.name));
  std::ofstream out(file);
  if (!(out << text).flush())
    throw InputError("cannot be written", file.string(), "make its folder writable");
  std::printf(
      "%s: cluster \"%s\" with node \"%s\"\n%s: its certificates; keep %s here and safe: it makes more of "
      "them\n"
      "Next: convoy up --config %s\n",
      file.c_str(), args.cluster.c_str(), args.name.c_str(), tls.c_str(), authority_key_file, file.c_str());
}

actors::Identity read_authority(const fs::path& tls) {
  const std::string mend = "run this where `convoy init` made the cluster";
  return {actors::read_pem(tls / actors::authority_file, false, mend),
          actors::read_pem(tls / authority_key_file, true, mend)};
}

void issue(const std::string& config_file, const std::string& node, int days) {
  const auto config = actors::load_cluster_config(config_file);
  if (!config.find_node(node))
    throw InputError("there is no node \"" + node + "\"", config.file.string() + ": cluster.nodes",
                     "add it there, on every machine, or name one of them");
  const fs::path tls = config.cluster.tls_dir;
  const actors::Identity authority = read_authority(tls);
  note_and_write(tls, node, actors::issue(authority, config.cluster.name, node, days));
  std::printf(
      "%s\n%s: valid for %d days\nCopy both and %s into `cluster.tls_dir` of the machine that runs it, mode "
      "600; %s stays here.\n",
      (tls / actors::key_file(node)).c_str(), (tls / actors::certificate_file(node)).c_str(), days,
      actors::authority_file, authority_key_file);
}

/// All certificates that the node ever had. Nodes that run here find the new list within seconds, and pass it
/// on.
void revoke(const std::string& config_file, const std::string& node) {
  const auto config = actors::load_cluster_config(config_file);
  const fs::path tls = config.cluster.tls_dir;
  const actors::Identity authority = read_authority(tls);
  auto issued = lines_of(tls / issued_file);
  size_t count = 0;
  std::vector<std::string> serials;
  for (std::string& line : issued) {
    if (line.ends_with(" " + node)) {
      line += revoked_mark;
      ++count;
    }
    if (line.ends_with(revoked_mark)) serials.push_back(line.substr(0, line.find(' ')));
  }
  if (count == 0)
    throw InputError("no certificate of node \"" + node + "\" counts", (tls / issued_file).string(),
                     "name a node that `convoy ca issue` made one for");
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const auto number = std::chrono::duration_cast<std::chrono::milliseconds>(now).count();
  actors::replace_private(tls / actors::revocations_file,
                          actors::revoke(authority, serials, static_cast<uint64_t>(number)));
  write_lines(tls / issued_file, issued);
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
  command->add_option("--http", args->http, "HOST:PORT to serve HTTP on")->capture_default_str();
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
  CLI::App* none = command->add_subcommand("revoke", "Let a node's certificates count no more");
  none->add_option("NODE", args->node, "Whose")->required();
  none->add_option("--config", args->config)->capture_default_str();
  none->callback([=, &exit_code] {
    revoke(args->config, args->node);
    exit_code = ok;
  });
}

}  // namespace convoy::cli
