// convoy status: what the cluster is, in one glance.

#include "cli/cluster_client.hpp"
#include "cli/commands.hpp"

namespace convoy::cli {

namespace json = boost::json;

namespace {

std::string text(const json::value& v) {
  return v.is_string() ? std::string(v.as_string()) : json::serialize(v);
}

/// As a share of a whole, which may be nothing.
double percent(const json::object& s, const char* part, const char* whole) {
  const double all = s.at(whole).to_number<double>();
  return all > 0 ? 100 * s.at(part).to_number<double>() / all : 0;
}

void print_steps(const json::object& s) {
  const bool waits = s.at("waiting").to_number<uint64_t>() > 0;
  std::printf(
      "requests  %s running, %s waiting%s; one more would wait %s ms%s\n", text(s.at("running")).c_str(),
      text(s.at("waiting")).c_str(), waits ? (" for " + text(s.at("waiting_for"))).c_str() : "",
      text(s.at("wait_estimate_ms")).c_str(), s.at("overloaded").as_bool() ? ", and is rejected" : "");
  std::printf(
      "kv        %s of %s blocks used, %s can be found again; %.0f %% of prompts' tokens were; %s "
      "preemptions\n",
      text(s.at("kv_blocks_used")).c_str(), text(s.at("kv_blocks")).c_str(),
      text(s.at("kv_blocks_cached")).c_str(), percent(s, "cached_tokens", "prompt_tokens"),
      text(s.at("preemptions")).c_str());
  std::printf("steps     %s in flight, %s of them micro-batches; %.1f rows a step lately\n",
              text(s.at("steps_in_flight")).c_str(), text(s.at("micro_batches")).c_str(),
              s.at("rows_per_step").to_number<double>());
  if (s.at("drafted_tokens").to_number<uint64_t>() > 0)
    std::printf("guesses   %s tokens, %.0f %% of them right\n", text(s.at("drafted_tokens")).c_str(),
                percent(s, "accepted_tokens", "drafted_tokens"));
}

void print_for_people(const json::object& s) {
  const bool ready = s.at("ready").as_bool();
  std::printf("%s  %s\n", ready ? "READY    " : "NOT READY", ready ? "" : text(s.at("reason")).c_str());
  std::printf("model     %s\n", text(s.at("model")).c_str());
  std::printf("gateway   %s (pid %s)\n", text(s.at("gateway").at("url")).c_str(),
              text(s.at("gateway").at("pid")).c_str());
  if (const auto* redis = s.at("redis").if_object())
    std::printf("redis     %s %s (pid %s)  %s\n", text(redis->at("state")).c_str(),
                text(redis->at("address")).c_str(), text(redis->at("pid")).c_str(),
                redis->contains("reason") ? text(redis->at("reason")).c_str() : "");
  if (s.contains("steps_in_flight")) print_steps(s);
  for (const auto& n : s.at("nodes").as_array())
    std::printf("node      %-8s %s (pid %s)\n", text(n.at("health")).c_str(), text(n.at("name")).c_str(),
                text(n.at("pid")).c_str());
  for (const auto& t : s.at("stages").as_array())
    std::printf("stage     %-8s layers %s-%s on %s, %s (pid %s), %.0f %% idle  %s\n",
                text(t.at("health")).c_str(), text(t.at("first_layer")).c_str(),
                text(t.at("last_layer")).c_str(), text(t.at("node")).c_str(), text(t.at("device")).c_str(),
                text(t.at("pid")).c_str(), 100 * t.at("bubble_ratio").to_number<double>(),
                text(t.at("reason")).c_str());
}

}  // namespace

void add_status(CLI::App& app, int& exit_code) {
  struct Arguments {
    std::string config = "cluster.conf";
    bool as_json = false;
    uint32_t timeout_ms = 2000;
  };
  auto args = std::make_shared<Arguments>();
  auto* command =
      app.add_subcommand("status", "Says what runs and whether it is ready (exit code 0: ready, 1: not)");
  command->add_option("--config", args->config, "cluster configuration")->capture_default_str();
  command->add_flag("--json", args->as_json, "one JSON object");
  command->add_option("--timeout-ms", args->timeout_ms, "how long the head node may take")
      ->capture_default_str();
  command->callback([args, &exit_code] {
    const auto status = cluster_status(actors::load_cluster_config(args->config), args->timeout_ms);
    if (args->as_json)
      std::printf("%s\n", json::serialize(status).c_str());
    else
      print_for_people(status);
    exit_code = status.at("ready").as_bool() ? ok : failed;
  });
}

}  // namespace convoy::cli
