#include "actors/node_status.hpp"

#include <unistd.h>

#include <boost/json.hpp>
#include <ctime>

#include "actors/model_readiness.hpp"
#include "model/version.hpp"

namespace convoy::actors {

namespace json = boost::json;

namespace {

const char* name_of(msg::Health health) {
  switch (health) {
    case msg::Health::DOWN:
      return "down";
    case msg::Health::LOADING:
      return "loading";
    case msg::Health::READY:
      return "ready";
    case msg::Health::HUNG:
      return "hung";
  }
  return "down";  // of a newer version
}

const char* name_of(msg::WaitingFor what) {
  switch (what) {
    case msg::WaitingFor::NOTHING:
      return "nothing";
    case msg::WaitingFor::SLOTS:
      return "slots";
    case msg::WaitingFor::BLOCKS:
      return "blocks";
  }
  return "nothing";  // of a newer version
}

/// As "2027-01-02T03:04:05Z"; null: not known.
json::value time_text(int64_t unix_s) {
  if (unix_s == 0) return nullptr;
  const std::time_t time = unix_s;
  std::tm at{};
  char text[32];
  ::gmtime_r(&time, &at);
  return json::string(text, std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &at));
}

const char* name_of(msg::Member::State state) {
  switch (state) {
    case msg::Member::State::JOINING:
      return "joining";
    case msg::Member::State::SERVING:
      return "serving";
    case msg::Member::State::DRAINING:
      return "draining";
    case msg::Member::State::DRAINED:
      return "drained";
  }
  return "serving";  // of a newer version
}

json::object node_json(const NodeOptions& options, const NodeState& state, const std::string& name,
                       const std::string& address) {
  const auto linked = state.nodes.find(name);
  const bool self = name == options.name;
  const int64_t until_s = linked != state.nodes.end() && linked->second.certificate_until_s != 0
                              ? linked->second.certificate_until_s
                          : self && state.facts.certificate_until_s ? state.facts.certificate_until_s()
                                                                    : 0;
  const auto since = state.nodes_since_s.find(name);
  return {{"name", name},
          {"address", address},
          {"role", name == options.config.head().name ? "head" : "stages"},
          {"version", self                          ? std::string(version())
                      : linked != state.nodes.end() ? linked->second.version
                                                    : ""},
          {"since", time_text(since != state.nodes_since_s.end() ? since->second : 0)},
          {"pid", self                          ? options.pid
                  : linked != state.nodes.end() ? linked->second.pid
                                                : 0},
          {"health", self || linked != state.nodes.end() ? "ready" : "down"},
          // Null: it showed none, to a process of its machine.
          {"certificate_until", time_text(until_s)}};
}

json::object member_json(const NodeOptions& options, const NodeState& state, const msg::Member::Reader& m) {
  json::object node = node_json(options, state, m.getNode(), m.getListen());
  node["state"] = name_of(m.getState());
  node["stages"] = m.getStages();
  const auto problem = state.problems.find(m.getNode());
  node["reason"] = problem != state.problems.end() ? problem->second : m.getReason().cStr();
  return node;
}

/// A pipeline of the configuration, with what it said if it did.
struct Entry {
  PipelineConfig config;
  const NodeState::Pipeline* said = nullptr;
};

std::vector<Entry> entries(const NodeOptions& options, const NodeState& state) {
  std::vector<Entry> list;
  for (const PipelineConfig& config : options.config.cluster.pipelines) {
    const auto found = state.pipelines.find(config.name);
    list.push_back({config, found == state.pipelines.end() ? nullptr : &found->second});
  }
  return list;
}

/// The pipelines' members; before one reported, what cluster.conf says of it.
json::array nodes_json(const NodeOptions& options, const NodeState& state, const std::vector<Entry>& all) {
  json::array nodes;
  for (const Entry& entry : all) {
    json::array of_pipeline;
    if (entry.said) {
      const msg::Reading pipeline(entry.said->state);
      for (const auto m : pipeline->getMembers()) of_pipeline.push_back(member_json(options, state, m));
    }
    if (of_pipeline.empty())
      for (const NodeConfig& n : options.config.cluster.nodes)
        if (options.config.pipeline_of(n) == entry.config.name)
          of_pipeline.push_back(node_json(options, state, n.name, n.listen));
    for (json::value& node : of_pipeline) {
      node.as_object()["pipeline"] = entry.config.name;
      nodes.push_back(std::move(node));
    }
  }
  return nodes;
}

json::object gateway_json(const std::string& node, const NodeState::SeenGateway& seen) {
  json::object gateway{
      {"node", node}, {"pid", seen.peer.pid}, {"url", ""}, {"ready", false}, {"connections", 0}};
  gateway["reason"] = "it has not reported yet";
  if (!seen.said) return gateway;
  const msg::Reading said(seen.said);
  gateway["url"] = said->getUrl().cStr();
  gateway["ready"] = said->getReady();
  gateway["reason"] = said->getReason().cStr();
  gateway["connections"] = said->getConnections();
  return gateway;
}

/// The head's own first; those that cluster.conf names and that are not linked as well.
json::array gateways_json(const NodeOptions& options, const NodeState& state, const json::object& status) {
  json::array gateways;
  gateways.push_back(
      {{"node", options.config.head().name},
       {"pid", getpid()},
       {"url", status.at("gateway").at("url")},
       {"ready", status.at("ready")},
       {"connections", state.facts.gateway_connections ? state.facts.gateway_connections() : 0},
       {"reason", status.at("reason")}});
  for (const auto& [node, seen] : state.gateways) gateways.push_back(gateway_json(node, seen));
  for (const NodeConfig& n : options.config.cluster.nodes)
    if (options.config.has_own_gateway(n) && !state.gateways.contains(n.name))
      gateways.push_back({{"node", n.name},
                          {"pid", 0},
                          {"url", ""},
                          {"ready", false},
                          {"connections", 0},
                          {"reason", "it is not linked"}});
  return gateways;
}

json::array stages_json(const NodeState& state, const std::string& name,
                        const msg::PipelineState::Reader& pipeline) {
  json::array stages;
  for (const auto s : pipeline.getStages()) {
    const auto seen = state.stages.find({s.getNode(), s.getInstance()});
    std::string reason = s.getReason();
    if (s.getHealth() == msg::Health::LOADING && reason.empty())
      reason = "loaded " + std::to_string(s.getLoadedPermille() / 10) + " %";
    stages.push_back({{"pipeline", name},
                      {"node", s.getNode().cStr()},
                      {"instance", s.getInstance()},
                      {"pid", s.getPid()},
                      {"device", s.getDevice().cStr()},
                      {"first_layer", s.getFirstLayer()},
                      {"last_layer", s.getLastLayer()},
                      {"health", name_of(s.getHealth())},
                      {"since", time_text(seen != state.stages.end() ? seen->second.since_s : 0)},
                      {"bubble_ratio", s.getBubbleRatio()},
                      {"layer_us", s.getLayerUs()},
                      {"memory_bytes", s.getMemoryBytes()},
                      {"machine", s.getMachine().cStr()},
                      {"card", s.getCard().cStr()},
                      {"reason", reason}});
  }
  return stages;
}

/// What a pipeline said of its work.
json::object work_json(const msg::PipelineState::Reader& pipeline) {
  const auto counters = pipeline.getCounters();
  return {{"epoch", pipeline.getEpoch()},
          {"running", pipeline.getRunning()},
          {"waiting", pipeline.getWaiting()},
          {"steps_in_flight", pipeline.getStepsInFlight()},
          {"micro_batches", pipeline.getMicroBatches()},
          {"rows_per_step", pipeline.getRowsPerStep()},
          {"kv_blocks", pipeline.getKvBlocksTotal()},
          {"kv_blocks_used", pipeline.getKvBlocksUsed()},
          {"kv_blocks_cached", pipeline.getCachedBlocks()},
          {"waiting_for", name_of(pipeline.getWaitingFor())},
          {"wait_estimate_ms", pipeline.getWaitEstimateMs()},
          {"overloaded", pipeline.getOverloaded()},
          {"prompt_tokens", counters.getPromptTokens()},
          {"cached_tokens", counters.getCachedTokens()},
          {"preemptions", counters.getPreemptions()},
          {"drafted_tokens", counters.getDraftedTokens()},
          {"accepted_tokens", counters.getAcceptedTokens()},
          {"saved_blocks", counters.getSavedBlocks()},
          {"loaded_blocks", counters.getLoadedBlocks()}};
}

/// Who serves what, and whether it can.
struct Pipelines {
  json::array list, stages;
  std::vector<PipelineHealth> healths;
};

Pipelines pipelines_json(const NodeOptions& options, const NodeState& state, const std::vector<Entry>& all,
                         std::chrono::steady_clock::time_point now) {
  const auto period = std::chrono::milliseconds(options.config.pipeline.readiness_period_ms);
  Pipelines out;
  for (const Entry& entry : all) {
    PipelineHealth health{entry.config.name, entry.config.model, true, false,
                          "the pipeline has not reported yet"};
    json::object shown{{"name", health.name}, {"model", health.model}};
    if (entry.said) {
      const msg::Reading pipeline(entry.said->state);
      health.silent = now - entry.said->heard >= period;
      health.ready = !health.silent && pipeline->getReady();
      health.reason = health.silent ? "the pipeline is silent" : pipeline->getReason().cStr();
      const json::object work = work_json(*pipeline);
      shown.insert(work.begin(), work.end());
      for (json::value& stage : stages_json(state, health.name, *pipeline))
        out.stages.push_back(std::move(stage));
    }
    shown["ready"] = health.ready;
    shown["reason"] = health.reason;
    out.list.push_back(std::move(shown));
    out.healths.push_back(std::move(health));
  }
  return out;
}

/// What there is to say of the whole: of one pipeline all that is said of it, of several what runs and waits.
void add_whole(json::object& status, const ClusterConfig& config, const Pipelines& pipelines) {
  std::vector<std::string> models;
  for (const ModelConfig& model : config.cluster.models) models.push_back(model.id);
  const std::string why = why_not_ready(models, pipelines.healths);
  status["ready"] = why.empty();
  status["reason"] = why;
  if (pipelines.list.size() == 1) {
    const auto& only = pipelines.list.front().as_object();
    status["reason"] = only.at("reason");
    for (const auto& field : only)
      if (!status.contains(field.key()) && field.key() != "name") status[field.key()] = field.value();
    return;
  }
  for (const char* name : {"running", "waiting"}) {
    uint64_t sum = 0;
    for (const json::value& pipeline : pipelines.list)
      if (const auto* value = pipeline.as_object().if_contains(name)) sum += value->to_number<uint64_t>();
    status[name] = sum;
  }
}

}  // namespace

void see_stages(NodeState& state, int64_t now_unix_s) {
  std::map<StageName, NodeState::SeenStage> seen;
  for (const auto& [name, said] : state.pipelines) {
    const msg::Reading pipeline(said.state);
    for (const auto s : pipeline->getStages()) {
      const StageName stage{s.getNode(), s.getInstance()};
      const auto before = state.stages.find(stage);
      const bool same = before != state.stages.end() && before->second.pid == s.getPid() &&
                        before->second.health == s.getHealth();
      seen[stage] = {s.getPid(), s.getHealth(), same ? before->second.since_s : now_unix_s};
    }
  }
  state.stages = std::move(seen);
}

std::string status_json(const NodeOptions& options, const NodeState& state,
                        std::chrono::steady_clock::time_point now) {
  const auto all = entries(options, state);
  Pipelines pipelines = pipelines_json(options, state, all, now);
  const auto& models = options.config.cluster.models;
  json::object status{
      {"model", models.empty() ? "" : models.front().id},
      {"gateway", {{"url", state.facts.gateway_url ? state.facts.gateway_url() : ""}, {"pid", getpid()}}},
      {"redis", state.facts.redis_json ? json::parse(state.facts.redis_json()) : json::value(nullptr)},
      {"nodes", nodes_json(options, state, all)}};
  add_whole(status, options.config, pipelines);
  status["pipelines"] = std::move(pipelines.list);
  status["stages"] = std::move(pipelines.stages);
  if (state.facts.draining && state.facts.draining()) {
    status["ready"] = false;
    status["reason"] = "ends, once the answers under way have (gateway.drain_timeout_ms)";
  }
  status["gateways"] = gateways_json(options, state, status);
  return json::serialize(status);
}

}  // namespace convoy::actors
