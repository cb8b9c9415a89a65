// convoy plan: which layers each stage has, with its weights, its room for keys and values and what a step
// takes it by measurement; and the same if there were other nodes, too.

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <optional>

#include "actors/balance.hpp"
#include "actors/config/plan_limits.hpp"
#include "cli/cluster_client.hpp"
#include "cli/commands.hpp"
#include "cli/unavailable.hpp"
#include "gpu/kv_types.hpp"
#include "model/checkpoint/inspect.hpp"
#include "model/error.hpp"

namespace convoy::cli {

namespace json = boost::json;
using actors::StageOffer;

namespace {

/// What the launches of a layer take a card, however small it is (docs/decisions/0033).
constexpr double card_layer_us_min = 40;

struct PlanArguments {
  std::string config = "cluster.conf", pipeline;
  bool as_json = false;
  std::vector<std::string> with;
  uint32_t timeout_ms = 2000;
};

/// A stage that is there, or would be.
struct Device {
  StageOffer offer;
  std::string text;  // "CPU", "GPU 1"
  bool is_card() const { return text.starts_with("GPU"); }
};

struct Plan {
  struct Stage {
    const Device* device;
    std::optional<model::LayerRange> layers;
    uint64_t weight_bytes = 0;
    std::optional<uint64_t> kv_tokens;  // that its memory has room for; nothing: not known
    double step_us = 0;                 // 0: not known
  };
  std::vector<Stage> stages;
  double slowest_us = 0, whole_us = 0;  // 0: not known

  /// Of as many streams as a step of balance_rows has rows; and of so many that all stages always have such
  /// a step.
  double tokens_per_s() const { return whole_us > 0 ? 1e6 * actors::balance_rows / whole_us : 0; }
  double tokens_per_s_full() const { return slowest_us > 0 ? 1e6 * actors::balance_rows / slowest_us : 0; }
};

[[noreturn]] void refuse_with(const std::string& text, const std::string& why) {
  throw InputError(
      why, "--with " + text,
      "write NAME=cpu:MEMORY or NAME=cuda:MEMORY, such as mole=cuda:80GiB, and behind a colon how "
      "many GB/s its memory has if no such device serves yet: mole=cuda:80GiB:3350");
}

std::optional<double> number(std::string_view text, std::string_view& rest) {
  double value = 0;
  const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (ec != std::errc() || value <= 0) return std::nullopt;
  rest = text.substr(static_cast<size_t>(end - text.data()));
  return value;
}

uint64_t parse_bytes(const std::string& whole, std::string_view text) {
  static const std::map<std::string_view, double> units{
      {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1ull << 40}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12}};
  std::string_view unit;
  const auto value = number(text, unit);
  const auto found = units.find(unit);
  if (!value || found == units.end())
    refuse_with(whole, "\"" + std::string(text) + "\" is no size of a memory");
  return static_cast<uint64_t>(*value * found->second);
}

/// What a layer takes a device whose memory is so fast, at least: its weights are read once.
double layer_us_at(const model::Checkpoint& checkpoint, double gb_per_s) {
  const model::Config& config = checkpoint.config();
  const double bytes = static_cast<double>(model::inspect(checkpoint).bytes_active) /
                       (static_cast<double>(config.layers) + actors::head_layers(checkpoint));
  return bytes / (gb_per_s * 1e3);
}

Device parse_with(const std::string& text, const std::vector<Device>& there,
                  const model::Checkpoint& checkpoint) {
  const auto equals = text.find('=');
  if (equals == 0 || equals == text.npos) refuse_with(text, "no name");
  std::vector<std::string> parts;
  for (size_t from = equals + 1; from <= text.size();) {
    const size_t to = std::min(text.find(':', from), text.size());
    parts.push_back(text.substr(from, to - from));
    from = to + 1;
  }
  if (parts.size() < 2 || parts.size() > 3 || (parts[0] != "cpu" && parts[0] != "cuda"))
    refuse_with(text, "no device and memory");
  Device device;
  device.text = parts[0] == "cpu" ? "CPU" : "GPU";
  device.offer.name = {text.substr(0, equals), 0};
  device.offer.machine = device.offer.name.node;
  device.offer.card = device.is_card() ? "card" : "";
  device.offer.memory_bytes = parse_bytes(text, parts[1]);
  if (parts.size() == 3) {
    std::string_view rest;
    const auto rate = number(parts[2], rest);
    if (!rate || !rest.empty()) refuse_with(text, "\"" + parts[2] + "\" is no number of GB/s");
    device.offer.layer_us = layer_us_at(checkpoint, *rate);
    if (device.is_card()) device.offer.layer_us = std::max(device.offer.layer_us, card_layer_us_min);
    return device;
  }
  const auto like = std::ranges::find_if(
      there, [&](const Device& d) { return d.is_card() == device.is_card() && d.offer.layer_us > 0; });
  if (like == there.end()) refuse_with(text, "how fast it is, is not known: no such device was measured yet");
  device.offer.layer_us = like->offer.layer_us;
  return device;
}

std::vector<Device> devices_of(const json::array& stages) {
  std::vector<Device> devices;
  for (const json::value& s : stages) {
    Device device;
    device.text = json::value_to<std::string>(s.at("device"));
    device.offer = {{json::value_to<std::string>(s.at("node")), s.at("instance").to_number<uint32_t>()},
                    json::value_to<std::string>(s.at("machine")),
                    json::value_to<std::string>(s.at("card")),
                    s.at("memory_bytes").to_number<uint64_t>(),
                    s.at("layer_us").to_number<double>()};
    devices.push_back(std::move(device));
  }
  return devices;
}

actors::Balance layers_of(const json::array& stages) {
  actors::Balance layers;
  for (const json::value& s : stages)
    layers.push_back(
        model::LayerRange{s.at("first_layer").to_number<int64_t>(), s.at("last_layer").to_number<int64_t>()});
  return layers;
}

Plan make_plan(const actors::ClusterConfig& config, const model::Checkpoint& checkpoint,
               const std::vector<Device>& devices, std::optional<actors::Balance> layers = {}) {
  const actors::LayerCosts costs = actors::layer_costs(checkpoint);
  std::vector<StageOffer> offers;
  for (const Device& device : devices) offers.push_back(device.offer);
  actors::pool_speeds(offers);
  if (!layers) layers = actors::balance(costs, offers);
  Plan plan{.slowest_us = actors::slowest_us(costs, offers, *layers),
            .whole_us = actors::whole_us(costs, offers, *layers)};
  const auto same_place = [](const StageOffer& a, const StageOffer& b) {
    return a.machine == b.machine && a.card == b.card;
  };
  for (size_t i = 0; i < devices.size(); ++i) {
    Plan::Stage stage{.device = &devices[i], .layers = (*layers)[i]};
    if (stage.layers) {
      stage.weight_bytes = model::stage_bytes(checkpoint, *stage.layers);
      stage.step_us = actors::work_of(costs, *stage.layers) * offers[i].layer_us;
      const auto sharers = static_cast<uint64_t>(
          std::ranges::count_if(offers, [&](const StageOffer& o) { return same_place(o, offers[i]); }));
      const model::DType type = actors::kv_type_named(config.stage.kv_type)
                                    .value_or(devices[i].is_card() ? gpu::cuda_kv_type : gpu::cpu_kv_type);
      const uint64_t room = offers[i].memory_bytes / sharers,
                     each = model::kv_bytes_per_token(checkpoint.config(), stage.layers->count(), type);
      if (room > 0) stage.kv_tokens = (room - std::min(room, stage.weight_bytes)) / each;
    }
    plan.stages.push_back(stage);
  }
  return plan;
}

json::object to_json(const Plan& plan) {
  json::array stages;
  for (const Plan::Stage& s : plan.stages) {
    json::object stage{{"node", s.device->offer.name.node},
                       {"instance", s.device->offer.name.instance},
                       {"device", s.device->text},
                       {"left_out", !s.layers}};
    if (s.layers) {
      stage["first_layer"] = s.layers->first;
      stage["last_layer"] = s.layers->last;
      stage["weight_bytes"] = s.weight_bytes;
      stage["kv_tokens"] = s.kv_tokens ? json::value(*s.kv_tokens) : json::value(nullptr);
      stage["step_us"] = s.step_us;
    }
    stages.push_back(std::move(stage));
  }
  return {{"stages", stages},
          {"rows_per_step", actors::balance_rows},
          {"step_us", plan.whole_us},
          {"slowest_stage_us", plan.slowest_us},
          {"tokens_per_s", plan.tokens_per_s()},
          {"tokens_per_s_full", plan.tokens_per_s_full()}};
}

void print(const Plan& plan) {
  std::printf("%-14s %-7s %-9s %12s %12s %14s\n", "stage", "device", "layers", "weights MiB", "KV tokens",
              "step of 8, us");
  static_assert(actors::balance_rows == 8, "the heading says so");
  for (const Plan::Stage& s : plan.stages) {
    const std::string name = s.device->offer.name.node + "/" + std::to_string(s.device->offer.name.instance);
    if (!s.layers) {
      std::printf("%-14s %-7s left out: it would only slow the others\n", name.c_str(),
                  s.device->text.c_str());
      continue;
    }
    const std::string layers = std::to_string(s.layers->first) + "-" + std::to_string(s.layers->last);
    std::printf("%-14s %-7s %-9s %12.1f %12s %14s\n", name.c_str(), s.device->text.c_str(), layers.c_str(),
                static_cast<double>(s.weight_bytes) / (1 << 20),
                s.kv_tokens ? std::to_string(*s.kv_tokens).c_str() : "?",
                s.step_us > 0 ? std::to_string(std::lround(s.step_us)).c_str() : "?");
  }
  if (plan.whole_us > 0)
    std::printf("%zu streams get %.0f tokens/s together, as many as keep all stages busy %.0f\n",
                actors::balance_rows, plan.tokens_per_s(), plan.tokens_per_s_full());
  else
    std::printf("how fast that is, is known once requests have been computed for a while\n");
}

/// The stages of that pipeline.
json::array stages_of(const json::object& status, const std::string& pipeline) {
  json::array stages;
  for (const json::value& s : status.at("stages").as_array())
    if (json::value_to<std::string>(s.at("pipeline")) == pipeline) stages.push_back(s);
  return stages;
}

void print_difference(const Plan& now, const Plan& other) {
  std::printf("\n");
  print(other);
  if (now.slowest_us > 0)
    std::printf("%+.0f %% for 8 streams, %+.0f %% for as many as keep all stages busy\n",
                100 * (other.tokens_per_s() / now.tokens_per_s() - 1),
                100 * (other.tokens_per_s_full() / now.tokens_per_s_full() - 1));
}

/// with: nodes that might join it.
json::object plan_of_pipeline(const actors::ClusterConfig& config, const json::array& stages,
                              const std::vector<std::string>& with, bool as_json) {
  const auto checkpoint = model::Checkpoint::open(config.cluster.model);
  const std::vector<Device> there = devices_of(stages);
  const Plan now = make_plan(config, *checkpoint, there, layers_of(stages));
  std::vector<Device> devices = there;
  for (const std::string& text : with) devices.push_back(parse_with(text, there, *checkpoint));
  std::optional<Plan> other;
  if (!with.empty()) other = make_plan(config, *checkpoint, devices);
  json::object both{{"now", to_json(now)}};
  if (other) both["with"] = to_json(*other);
  if (as_json) return both;
  print(now);
  if (other) print_difference(now, *other);
  return both;
}

int run_plan(const PlanArguments& args) {
  const auto config = actors::load_cluster_config(args.config);
  const auto* const chosen = config.find_pipeline(args.pipeline);
  if (!chosen)
    throw InputError("there is no pipeline \"" + args.pipeline + "\"",
                     config.file.string() + ": cluster.pipelines", "name one that is there");
  const auto status = cluster_status(config, args.timeout_ms);
  if (status.at("stages").as_array().empty())
    throw Unavailable("there is no plan: " + json::value_to<std::string>(status.at("reason")));
  // Of a node that might join nobody knows which one it would join but who asks.
  const bool one = config.cluster.pipelines.size() == 1 || !args.pipeline.empty() || !args.with.empty();
  json::array all;
  for (const actors::PipelineConfig& pipeline : config.cluster.pipelines) {
    if (one && &pipeline != chosen) continue;
    if (!one && !args.as_json)
      std::printf("%spipeline %s of %s\n", all.empty() ? "" : "\n", pipeline.name.c_str(),
                  pipeline.model.c_str());
    json::object plan = plan_of_pipeline(config.of_pipeline(pipeline), stages_of(status, pipeline.name),
                                         args.with, args.as_json);
    plan["pipeline"] = pipeline.name;
    all.push_back(std::move(plan));
  }
  if (args.as_json)
    std::printf(
        "%s\n",
        (one ? json::serialize(all.front()) : json::serialize(json::object{{"pipelines", all}})).c_str());
  return ok;
}

}  // namespace

void add_plan(CLI::App& app, int& exit_code) {
  auto args = std::make_shared<PlanArguments>();
  auto* command = app.add_subcommand(
      "plan", "Says which layers each stage has and how fast that is, and what other nodes would bring");
  command->add_option("--config", args->config, "cluster configuration")->capture_default_str();
  command->add_flag("--json", args->as_json, "one JSON object");
  command->add_option("--pipeline", args->pipeline, "which pipeline; all, and with --with the first");
  command->add_option("--with", args->with, "a node that might join, as NAME=cuda:80GiB or NAME=cpu:64GiB");
  command->add_option("--timeout-ms", args->timeout_ms, "how long the head node may take")
      ->capture_default_str();
  command->callback([args, &exit_code] { exit_code = run_plan(*args); });
}

}  // namespace convoy::cli
