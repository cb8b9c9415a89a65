// convoy key: who may ask the gateway. Reads and writes the file of keys alone; the gateway sees changes
// within a second.

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <optional>
#include <string>

#include "actors/config/cluster_config.hpp"
#include "actors/config/plain_name.hpp"
#include "actors/process/wall_clock.hpp"
#include "cli/commands.hpp"
#include "cli/time_option.hpp"
#include "gateway/keys_file.hpp"
#include "model/error.hpp"

namespace convoy::cli {

namespace {

constexpr int64_t life_s_max = 3650 * one_day_s;

struct KeyArguments {
  std::string config = "cluster.conf", tenant = "default", role = "user", name, id;
  std::optional<int64_t> life_s;
};

std::string keys_file_of(const std::string& config_file) {
  const auto config = actors::load_cluster_config(config_file);
  if (config.gateway.keys_file.empty())
    throw InputError("`gateway.keys_file` is empty: this gateway asks nobody for a key", config.file.string(),
                     "add keys_file = \"keys\" under [gateway], and start the cluster anew");
  return config.gateway.keys_file;
}

std::string date(int64_t time_s) {
  if (time_s == 0) return "never";
  const std::time_t time = time_s;
  std::tm parts{};
  ::gmtime_r(&time, &parts);
  char text[32];
  return {text, std::strftime(text, sizeof text, "%FT%TZ", &parts)};
}

void require_plain(const std::string& name, const char* option) {
  if (!actors::is_plain_name(name))
    throw InputError("\"" + name + "\" is no name", option, actors::plain_name_rule);
}

void create(const KeyArguments& args) {
  require_plain(args.tenant, "--tenant");
  if (!args.name.empty()) require_plain(args.name, "--name");
  if (args.life_s && (*args.life_s < 1 || *args.life_s > life_s_max))
    throw InputError("no time between 1s and 3650d", "--expires", "give it as 12h or 90d");
  gateway::ApiKey key;
  key.role = *gateway::role_named(args.role);
  key.created_s = actors::unix_s();
  if (args.life_s) key.until_s = key.created_s + *args.life_s;
  key.tenant = args.tenant;
  key.name = args.name;
  const std::string text = gateway::make_key(keys_file_of(args.config), std::move(key));
  std::fprintf(
      stderr, "A key of tenant %s, role %s, good within a second. It is shown this once; its hash is kept.\n",
      args.tenant.c_str(), args.role.c_str());
  std::printf("%s\n", text.c_str());
}

void list(const std::string& config) {
  const int64_t now_s = actors::unix_s();
  std::printf("%-12s  %-7s  %-20s  %-20s  %-20s  %s\n", "ID", "ROLE", "TENANT", "CREATED", "EXPIRES", "NAME");
  for (const gateway::ApiKey& key : gateway::load_keys(keys_file_of(config)))
    std::printf("%-12s  %-7s  %-20s  %-20s  %-20s  %s%s\n", key.id.c_str(), gateway::name_of(key.role).data(),
                key.tenant.c_str(), date(key.created_s).c_str(), date(key.until_s).c_str(), key.name.c_str(),
                key.has_ended(now_s) ? " (expired)" : "");
}

void revoke(const std::string& config, const std::string& id) {
  const std::string file = keys_file_of(config);
  gateway::change_keys(file, [&](gateway::ApiKeys& keys) {
    if (std::erase_if(keys, [&](const gateway::ApiKey& key) { return key.id == id; }) == 0)
      throw InputError("there is no key with the id \"" + id + "\"", file, "`convoy key list` shows them");
  });
  std::printf("%s: refused from now on, and by a gateway that runs within a second\n", id.c_str());
}

}  // namespace

void add_key(CLI::App& app, int& exit_code) {
  auto args = std::make_shared<KeyArguments>();
  CLI::App* command = app.add_subcommand("key", "Keys with which applications ask the gateway");
  command->require_subcommand(1);
  const auto add = [&](const char* name, const char* help) {
    CLI::App* one = command->add_subcommand(name, help);
    one->add_option("--config", args->config)->capture_default_str();
    return one;
  };
  CLI::App* create_one = add("create", "Make one, and print it this once");
  create_one->add_option("--tenant", args->tenant, "Whose: tenants share nothing but the cluster")
      ->capture_default_str();
  create_one->add_option("--role", args->role, "user asks the model; metrics reads /metrics; admin does both")
      ->check(CLI::IsMember({"user", "admin", "metrics"}))
      ->capture_default_str();
  create_one->add_option("--expires", args->life_s, "After how long it ends: 12h, 90d; never, if not given")
      ->transform(time_in_seconds());
  create_one->add_option("--name", args->name, "What people call it");
  create_one->callback([=, &exit_code] {
    create(*args);
    exit_code = ok;
  });
  add("list", "Show all of them, but not what opens")->callback([=, &exit_code] {
    list(args->config);
    exit_code = ok;
  });
  CLI::App* revoke_one = add("revoke", "Let one count no more");
  revoke_one->add_option("ID", args->id, "As `convoy key list` shows it")->required();
  revoke_one->callback([=, &exit_code] {
    revoke(args->config, args->id);
    exit_code = ok;
  });
}

}  // namespace convoy::cli
