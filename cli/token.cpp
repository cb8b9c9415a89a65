// convoy token create: lets a machine join. Reads and writes files of the authority alone.

#include <cstdio>
#include <string>

#include "actors/config/cluster_config.hpp"
#include "actors/link/authority.hpp"
#include "actors/process/wall_clock.hpp"
#include "cli/commands.hpp"
#include "cli/time_option.hpp"
#include "model/error.hpp"

namespace convoy::cli {

namespace {

constexpr uint32_t uses_max = 1024;
constexpr int64_t ttl_s_max = 30 * one_day_s;

void create(const std::string& config_file, uint32_t uses, int64_t ttl_s) {
  if (ttl_s < 1 || ttl_s > ttl_s_max)
    throw InputError("no time between 1s and 30d", "--ttl", "give it as 30m, 1h or 2d");
  const auto config = actors::load_cluster_config(config_file);
  if (config.cluster.dev)
    throw InputError("`cluster.dev` is true: this cluster is one machine's, and has no certificates",
                     config.file.string(), "make one for several machines: convoy init");
  actors::Authority authority(config.cluster.tls_dir);
  if (!authority.can_sign())
    throw InputError("the key that signs certificates is not here", config.cluster.tls_dir,
                     "run this where `convoy init` made the cluster");
  const auto token = actors::draw_token(actors::fingerprint_of(authority.certificate()));
  const int64_t now_s = actors::unix_s();
  authority.remember({actors::verifier_of(token), uses, now_s + ttl_s}, now_s);
  std::printf("convoy join %s --token %s\n", config.head().listen.c_str(), actors::text_of(token).c_str());
}

}  // namespace

void add_token(CLI::App& app, int& exit_code) {
  struct Arguments {
    std::string config = "cluster.conf";
    uint32_t uses = 1;
    int64_t ttl_s = one_hour_s;
  };
  auto args = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand("token", "Tokens with which machines join the cluster");
  command->require_subcommand(1);
  CLI::App* create_one = command->add_subcommand("create", "Make one, and print what to run on the machine");
  create_one->add_option("--config", args->config)->capture_default_str();
  create_one->add_option("--uses", args->uses, "How many machines may join with it")
      ->check(CLI::Range(1u, uses_max))
      ->capture_default_str();
  create_one->add_option("--ttl", args->ttl_s, "How long it is good: 30m, 1h, 2d")
      ->transform(time_in_seconds())
      ->default_str("1h");
  create_one->callback([=, &exit_code] {
    create(args->config, args->uses, args->ttl_s);
    exit_code = ok;
  });
}

}  // namespace convoy::cli
