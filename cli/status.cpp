// convoy status: what the cluster is, in one glance.

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <string>
#include <thread>
#include <vector>

#include "cli/cluster_client.hpp"
#include "cli/commands.hpp"

namespace convoy::cli {

namespace json = boost::json;

namespace {

constexpr int64_t day_s = 86'400, certificate_days_few = 30;
constexpr const char* time_format = "%Y-%m-%dT%H:%M:%SZ";
constexpr auto watch_period = std::chrono::seconds(1);
constexpr const char* clear_screen =
    "\033[H\033[2J\033[3J";  // ECMA-48; the last one is xterm's, for what scrolled by

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

/// How long something has been so, as "3 min"; nothing if that is not known.
std::string since(const json::object& what) {
  const auto* from = what.if_contains("since");  // none in one of an older version
  std::tm at{};
  if (!from || !from->is_string() || !::strptime(from->as_string().c_str(), time_format, &at)) return {};
  const auto s = std::max<int64_t>(0, std::time(nullptr) - ::timegm(&at));
  constexpr int64_t minute_s = 60, hour_s = 3600;
  if (s < 2 * minute_s) return " for " + std::to_string(s) + " s";
  if (s < 2 * hour_s) return " for " + std::to_string(s / minute_s) + " min";
  return s < 2 * day_s ? " for " + std::to_string(s / hour_s) + " h"
                       : " for " + std::to_string(s / day_s) + " days";
}

/// Until when a node's certificate is good, and what to do if that is soon.
std::string certificate(const json::object& node) {
  const auto* until = node.if_contains("certificate_until");  // none in one of an older version
  if (!until || !until->is_string()) return {};
  std::tm at{};
  if (!::strptime(until->as_string().c_str(), time_format, &at)) return {};
  const auto left_days = (::timegm(&at) - std::time(nullptr)) / day_s;
  std::string words = ", certificate until " + std::string(until->as_string().c_str(), 10);
  if (left_days < certificate_days_few)
    words += ": " + std::to_string(left_days) + " days are left; convoy ca issue " + text(node.at("name"));
  return words;
}

/// Where a node is, and what; nothing in what can be said without the head.
std::string place(const json::object& node) {
  if (!node.contains("address")) return {};
  const std::string version = text(node.at("version"));
  return " at " + text(node.at("address")) + (text(node.at("role")) == "head" ? ", the head" : "") +
         (version.empty() ? "" : ", version " + version);
}

/// Of a head of an older version the whole is the only one.
std::vector<json::object> pipelines_of(const json::object& s) {
  const auto* list = s.if_contains("pipelines");
  if (!list) return {s};
  std::vector<json::object> pipelines;
  for (const json::value& pipeline : list->as_array()) pipelines.push_back(pipeline.as_object());
  return pipelines;
}

/// Each once, in their order.
std::vector<std::string> models_of(const std::vector<json::object>& pipelines) {
  std::vector<std::string> models;
  for (const json::object& pipeline : pipelines)
    if (const std::string model = text(pipeline.at("model"));
        std::find(models.begin(), models.end(), model) == models.end())
      models.push_back(model);
  return models;
}

void print_pipeline(const json::object& p) {
  const bool ready = p.at("ready").as_bool();
  const auto* epoch = p.if_contains("epoch");  // none before it reported
  std::printf("pipeline  %-8s %s of %s%s  %s\n", ready ? "ready" : "down", text(p.at("name")).c_str(),
              text(p.at("model")).c_str(), epoch ? (", epoch " + text(*epoch)).c_str() : "",
              text(p.at("reason")).c_str());
}

/// Where there are several.
std::string of_pipeline(const json::object& part, size_t pipelines) {
  const auto* name = part.if_contains("pipeline");
  return pipelines > 1 && name ? " of " + text(*name) : "";
}

void print_gateways(const json::object& s) {
  const auto* const gateways = s.if_contains("gateways");  // none without the head
  if (!gateways)
    return void(std::printf("gateway   %s (pid %s)\n", text(s.at("gateway").at("url")).c_str(),
                            text(s.at("gateway").at("pid")).c_str()));
  for (const auto& g : gateways->as_array())
    std::printf("gateway   %-8s %s on %s (pid %s), %s connections  %s\n",
                g.at("ready").as_bool() ? "ready" : "down", text(g.at("url")).c_str(),
                text(g.at("node")).c_str(), text(g.at("pid")).c_str(), text(g.at("connections")).c_str(),
                text(g.at("reason")).c_str());
}

void print_for_people(const json::object& s) {
  const bool ready = s.at("ready").as_bool();
  std::printf("%s  %s\n", ready ? "READY    " : "NOT READY", ready ? "" : text(s.at("reason")).c_str());
  const auto pipelines = pipelines_of(s);
  for (const std::string& model : models_of(pipelines)) std::printf("model     %s\n", model.c_str());
  print_gateways(s);
  if (const auto* redis = s.at("redis").if_object())
    std::printf("redis     %s %s (pid %s)  %s\n", text(redis->at("state")).c_str(),
                text(redis->at("address")).c_str(), text(redis->at("pid")).c_str(),
                redis->contains("reason") ? text(redis->at("reason")).c_str() : "");
  for (const json::object& pipeline : pipelines) {
    if (pipeline.contains("name")) print_pipeline(pipeline);
    if (pipeline.contains("steps_in_flight")) print_steps(pipeline);
  }
  for (const auto& n : s.at("nodes").as_array()) {
    const bool is_member = n.as_object().contains("state");  // as the pipeline says
    const std::string reason = is_member ? text(n.at("reason")) : "";
    std::printf("node      %-8s %s%s%s (pid %s)%s%s%s%s\n", text(n.at("health")).c_str(),
                text(n.at("name")).c_str(), place(n.as_object()).c_str(),
                of_pipeline(n.as_object(), pipelines.size()).c_str(), text(n.at("pid")).c_str(),
                since(n.as_object()).c_str(),
                is_member ? (", " + text(n.at("state")) + ", stages: " + text(n.at("stages"))).c_str() : "",
                certificate(n.as_object()).c_str(), reason.empty() ? "" : ("  " + reason).c_str());
  }
  for (const auto& t : s.at("stages").as_array())
    std::printf("stage     %-8s layers %s-%s%s on %s, %s (pid %s)%s, %.0f %% idle  %s\n",
                text(t.at("health")).c_str(), text(t.at("first_layer")).c_str(),
                text(t.at("last_layer")).c_str(), of_pipeline(t.as_object(), pipelines.size()).c_str(),
                text(t.at("node")).c_str(), text(t.at("device")).c_str(), text(t.at("pid")).c_str(),
                since(t.as_object()).c_str(), 100 * t.at("bubble_ratio").to_number<double>(),
                text(t.at("reason")).c_str());
}

}  // namespace

void add_status(CLI::App& app, int& exit_code) {
  struct Arguments {
    std::string config = "cluster.conf";
    bool as_json = false, watch = false;
    uint32_t timeout_ms = 2000;
  };
  auto args = std::make_shared<Arguments>();
  auto* command =
      app.add_subcommand("status", "Says what runs and whether it is ready (exit code 0: ready, 1: not)");
  command->add_option("--config", args->config, "cluster configuration")->capture_default_str();
  command->add_flag("--json", args->as_json, "one JSON object a line");
  command->add_flag("--watch", args->watch, "says it again every second");
  command->add_option("--timeout-ms", args->timeout_ms, "how long the head node may take")
      ->capture_default_str();
  command->callback([args, &exit_code] {
    const auto config = actors::load_cluster_config(args->config);
    const bool on_terminal = args->watch && !args->as_json && ::isatty(STDOUT_FILENO);
    do {
      const auto next = std::chrono::steady_clock::now() + watch_period;
      const auto status = cluster_status(config, args->timeout_ms);
      if (on_terminal) std::printf("%s", clear_screen);
      if (args->as_json)
        std::printf("%s\n", json::serialize(status).c_str());
      else
        print_for_people(status);
      exit_code = status.at("ready").as_bool() ? ok : failed;
      if (args->watch && std::fflush(stdout) == 0) std::this_thread::sleep_until(next);
    } while (args->watch && !std::ferror(stdout));
  });
}

}  // namespace convoy::cli
