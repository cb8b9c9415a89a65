#include "actors/node.hpp"

#include <unistd.h>

#include <boost/json.hpp>

#include "actors/config/placement.hpp"
#include "actors/process/log.hpp"

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

json::array nodes_json(const NodeOptions& options, const NodeState& state) {
  json::array nodes;
  for (const NodeConfig& n : options.config.cluster.nodes) {
    const auto linked = state.nodes.find(n.name);
    const bool self = n.name == options.name;
    nodes.push_back({{"name", n.name},
                     {"pid", self                          ? options.pid
                             : linked != state.nodes.end() ? linked->second.pid
                                                           : 0},
                     {"health", self || linked != state.nodes.end() ? "ready" : "down"}});
  }
  return nodes;
}

json::array stages_json(const msg::PipelineState::Reader& pipeline) {
  json::array stages;
  for (const auto s : pipeline.getStages()) {
    std::string reason = s.getReason();
    if (s.getHealth() == msg::Health::LOADING && reason.empty())
      reason = "loaded " + std::to_string(s.getLoadedPermille() / 10) + " %";
    stages.push_back({{"node", s.getNode().cStr()},
                      {"pid", s.getPid()},
                      {"device", s.getDevice().cStr()},
                      {"first_layer", s.getFirstLayer()},
                      {"last_layer", s.getLastLayer()},
                      {"health", name_of(s.getHealth())},
                      {"bubble_ratio", s.getBubbleRatio()},
                      {"reason", reason}});
  }
  return stages;
}

}  // namespace

std::string status_json(const NodeOptions& options, const NodeState& state, bool pipeline_fresh) {
  json::object status{
      {"ready", false},
      {"model", options.config.cluster.model_id},
      {"gateway", {{"url", state.facts.gateway_url ? state.facts.gateway_url() : ""}, {"pid", getpid()}}},
      {"redis", state.facts.redis_json ? json::parse(state.facts.redis_json()) : json::value(nullptr)},
      {"nodes", nodes_json(options, state)},
      {"stages", json::array()},
      {"reason", "the pipeline has not reported yet"}};
  if (state.pipeline) {
    const msg::Reading pipeline(state.pipeline);
    status["ready"] = pipeline_fresh && pipeline->getReady();
    status["reason"] = pipeline_fresh ? pipeline->getReason().cStr() : "the pipeline is silent";
    status["stages"] = stages_json(*pipeline);
    status["epoch"] = pipeline->getEpoch();
    status["running"] = pipeline->getRunning();
    status["waiting"] = pipeline->getWaiting();
    status["steps_in_flight"] = pipeline->getStepsInFlight();
    status["micro_batches"] = pipeline->getMicroBatches();
    status["rows_per_step"] = pipeline->getRowsPerStep();
    status["kv_blocks"] = pipeline->getKvBlocksTotal();
    status["kv_blocks_used"] = pipeline->getKvBlocksUsed();
    status["kv_blocks_cached"] = pipeline->getCachedBlocks();
    status["waiting_for"] = name_of(pipeline->getWaitingFor());
    status["wait_estimate_ms"] = pipeline->getWaitEstimateMs();
    status["overloaded"] = pipeline->getOverloaded();
    const auto counters = pipeline->getCounters();
    status["prompt_tokens"] = counters.getPromptTokens();
    status["cached_tokens"] = counters.getCachedTokens();
    status["preemptions"] = counters.getPreemptions();
    status["drafted_tokens"] = counters.getDraftedTokens();
    status["accepted_tokens"] = counters.getAcceptedTokens();
    status["saved_blocks"] = counters.getSavedBlocks();
    status["loaded_blocks"] = counters.getLoadedBlocks();
  }
  if (state.facts.draining && state.facts.draining()) {
    status["ready"] = false;
    status["reason"] = "ends, once the answers under way have (gateway.drain_timeout_ms)";
  }
  return json::serialize(status);
}

NodeActor::behavior_type node(NodeActor::stateful_pointer<NodeState> self, NodeOptions options,
                              NodeFacts facts, NodeEffects effects) {
  using Clock = std::chrono::steady_clock;
  self->state.facts = std::move(facts);
  const auto placements = place_stages(options.config.cluster.nodes);
  auto owner_of = [placements](uint32_t instance) -> std::string {
    for (const StagePlacement& p : placements)
      if (instance >= p.first && instance < p.first + p.count) return p.node;
    return {};
  };
  return {
      [=](const Frame<msg::ReplaceStage>& frame) {
        const msg::Reading order(frame);
        const std::string owner = owner_of(order->getInstance());
        if (owner == options.name && !options.head) {
          log::warn_limited("node.replace_stage",  // it is asked for until the new process is there
                            {{"stage", order->getInstance()}, {"reason", order->getReason().cStr()}});
          return effects.replace(order->getInstance(), order->getIncarnation());
        }
        // Its own node is linked to the head, or gone; then its supervisor starts the stage again with
        // itself.
        if (const auto other = self->state.handles.find(owner); other != self->state.handles.end())
          self->send(other->second, frame);
        else
          log::warn_limited("node.owner_not_linked", {{"stage", order->getInstance()}, {"node", owner}});
      },
      [=](const Frame<msg::StatusQuery>& frame) {
        const auto client = self->state.clients.find(msg::Reading(frame)->getClient());
        if (client == self->state.clients.end()) return;
        const auto period = std::chrono::milliseconds(options.config.pipeline.readiness_period_ms);
        msg::FrameBuilder<msg::Status> status(512);
        status->setJson(status_json(options, self->state, Clock::now() - self->state.heard < period));
        self->send(client->second, std::move(status).finish());
      },
      [=](const Frame<msg::Shutdown>& frame) {
        log::info("node.shutdown");
        self->state.shutdown = frame;
        effects.shut_down();
      },
      [self](const Frame<msg::PipelineState>& frame) {
        self->state.pipeline = frame;
        self->state.heard = Clock::now();
      },
      [=](const PeerUp& up) {
        if (up.peer.role == schema::Role::CLIENT) {
          self->state.clients[up.peer.instance] = effects.client_handle(up.peer);
          return;
        }
        self->state.nodes[up.peer.node] = up.peer;
        self->state.handles[up.peer.node] = effects.node_handle(up.peer);
        log::info("node.linked", {{"node", up.peer.node}, {"pid", up.peer.pid}});
      },
      [self](const PeerDown& down) {
        if (down.peer.role == schema::Role::CLIENT) {
          self->state.clients.erase(down.peer.instance);
          return;
        }
        const auto known = self->state.nodes.find(down.peer.node);
        if (known == self->state.nodes.end() || known->second.incarnation != down.peer.incarnation) return;
        self->state.nodes.erase(known);
        self->state.handles.erase(down.peer.node);
        log::warn("node.unlinked", {{"node", down.peer.node}, {"reason", down.reason}});
      },
      // Their stages are needed until then. A head that was told otherwise ends alone.
      [self](Drained) {
        if (!self->state.shutdown) return;
        for (const auto& [name, other] : self->state.handles) self->send(other, self->state.shutdown);
      },
  };
}

}  // namespace convoy::actors
