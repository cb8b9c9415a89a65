#include "actors/node.hpp"

#include <algorithm>

#include "actors/node_status.hpp"
#include "actors/process/log.hpp"
#include "actors/process/wall_clock.hpp"

namespace convoy::actors {

namespace {

constexpr size_t problem_bytes_max = 1024;  // that status shows of one

/// How many stages a node is to run. Nothing: nobody can tell before all pipelines have reported.
std::optional<uint32_t> stages_wanted(const NodeState& state, const ClusterConfig& config,
                                      const std::string& node) {
  for (const auto& [name, said] : state.pipelines) {
    const msg::Reading pipeline(said.state);
    for (const auto m : pipeline->getMembers())
      if (m.getNode() == node.c_str()) {
        const bool leaves =
            m.getState() == msg::Member::State::DRAINING || m.getState() == msg::Member::State::DRAINED;
        return leaves ? 0 : m.getStages();
      }
  }
  if (state.pipelines.size() < std::max<size_t>(1, config.cluster.pipelines.size())) return std::nullopt;
  return 0;  // of the cluster no more
}

/// The head tells each node that is linked, and again when that changes.
void tell_nodes(NodeActor::stateful_pointer<NodeState> self, const ClusterConfig& config) {
  NodeState& state = self->state;
  for (const auto& [name, handle] : state.handles) {
    const auto wanted = stages_wanted(state, config, name);
    const auto told = state.told.find(name);
    if (!wanted || (told != state.told.end() && told->second == *wanted)) continue;
    state.told[name] = *wanted;
    msg::FrameBuilder<msg::KeepStages> order;
    order->setStages(*wanted);
    self->send(handle, std::move(order).finish());
  }
}

/// A node tells its head; the head knows from whom it is.
void hear_problem(NodeActor::stateful_pointer<NodeState> self, const NodeOptions& options,
                  const Frame<msg::NodeProblem>& frame) {
  NodeState& state = self->state;
  if (!options.head) {
    state.own_problem = frame;
    const auto head = state.handles.find(options.config.head().name);
    if (head != state.handles.end()) self->send(head->second, frame);
    return;
  }
  for (const auto& [name, handle] : state.handles)
    if (self->current_sender() == caf::actor_cast<caf::strong_actor_ptr>(handle)) {
      const std::string text = msg::Reading(frame)->getText();
      if (text.empty())
        state.problems.erase(name);
      else
        state.problems[name] = text.substr(0, problem_bytes_max);
    }
}

/// The head knows from whom it is.
void hear_gateway(NodeActor::stateful_pointer<NodeState> self, const Frame<msg::GatewayState>& frame) {
  for (auto& [node, seen] : self->state.gateways)
    if (self->current_sender() == caf::actor_cast<caf::strong_actor_ptr>(seen.handle)) seen.said = frame;
}

void pass_on(NodeActor::stateful_pointer<NodeState> self, const Frame<msg::MemberReply>& reply) {
  const auto client = self->state.clients.find(msg::Reading(reply)->getClient());
  if (client != self->state.clients.end()) self->send(client->second, reply);
}

/// What a command hears that reached nobody who could do it.
Frame<msg::MemberReply> refusal(uint32_t client, const std::string& why) {
  msg::FrameBuilder<msg::MemberReply> reply;
  reply->setClient(client);
  reply->setRefused(why);
  return std::move(reply).finish();
}

/// Of a node that is to be added the command names the pipeline; of others it follows.
void change_members(NodeActor::stateful_pointer<NodeState> self, const NodeOptions& options,
                    const Frame<msg::MemberCommand>& frame) {
  const NodeState& state = self->state;
  const msg::Reading command(frame);
  const auto refuse = [&](const std::string& why) { pass_on(self, refusal(command->getClient(), why)); };
  const std::string node = command->getNode();
  std::string name = state.facts.pipeline_of ? state.facts.pipeline_of(node) : "";
  if (name.empty() && command->getKind() != msg::MemberCommand::Kind::ADD &&
      options.config.cluster.pipelines.size() > 1)
    return refuse("there is no node " + node + "; `convoy status` lists them");
  if (name.empty()) name = command->getPipeline();
  if (const PipelineConfig* const configured = options.config.find_pipeline(name))
    name = configured->name;
  else if (!options.config.cluster.pipelines.empty())
    return refuse("there is no pipeline " + name + "; `convoy status` lists them");
  const auto pipeline = state.pipelines.find(name);
  if (pipeline == state.pipelines.end()) return refuse("the pipeline has not reported yet; try again");
  self->send(pipeline->second.actor, frame);
}

}  // namespace

NodeActor::behavior_type node(NodeActor::stateful_pointer<NodeState> self, NodeOptions options,
                              NodeFacts facts, NodeEffects effects) {
  using Clock = std::chrono::steady_clock;
  self->state.facts = std::move(facts);
  return {
      [=](const Frame<msg::ReplaceStage>& frame) {
        const msg::Reading order(frame);
        const std::string owner = order->getNode();
        if (owner == options.name && !options.head) {
          log::warn_limited("node.replace_stage",  // it is asked for until the new process is there
                            {{"pipeline", order->getPipeline().cStr()},
                             {"stage", order->getInstance()},
                             {"reason", order->getReason().cStr()}});
          return effects.replace(order->getInstance(), order->getIncarnation());
        }
        // Its own node is linked to the head, or gone; then its supervisor starts the stage again with
        // itself.
        if (const auto other = self->state.handles.find(owner); other != self->state.handles.end())
          self->send(other->second, frame);
        else
          log::warn_limited("node.owner_not_linked", {{"stage", order->getInstance()}, {"node", owner}});
      },
      [=](const Frame<msg::KeepStages>& frame) {
        const uint32_t count = msg::Reading(frame)->getStages();
        if (options.head || count > node_stages_max)
          return log::warn_limited("node.odd_order", {{"keep_stages", count}});
        log::info("node.keep_stages", {{"stages", count}});
        effects.keep_stages(count);
      },
      [=](const Frame<msg::MemberCommand>& frame) { change_members(self, options, frame); },
      [self](const Frame<msg::MemberReply>& frame) { pass_on(self, frame); },
      [=](const Frame<msg::NodeProblem>& frame) { hear_problem(self, options, frame); },
      [=](const Frame<msg::StatusQuery>& frame) {
        const auto client = self->state.clients.find(msg::Reading(frame)->getClient());
        if (client == self->state.clients.end()) return;
        msg::FrameBuilder<msg::Status> status(512);
        status->setJson(status_json(options, self->state, Clock::now()));
        self->send(client->second, std::move(status).finish());
      },
      [=](const Frame<msg::Shutdown>& frame) {
        log::info("node.shutdown");
        self->state.shutdown = frame;
        for (const auto& [node, seen] : self->state.gateways)
          if (seen.peer.here) self->send(seen.handle, frame);
        effects.shut_down();
      },
      [=](const Frame<msg::PipelineState>& frame) {
        self->state.pipelines[msg::Reading(frame)->getName()] = {
            caf::actor_cast<PipelineActor>(self->current_sender()), frame, Clock::now()};
        see_stages(self->state, unix_s());
        tell_nodes(self, options.config);
      },
      [=](const Frame<msg::GatewayState>& frame) { hear_gateway(self, frame); },
      [=](const PeerUp& up) {
        if (up.peer.role == schema::Role::CLIENT) {
          self->state.clients[up.peer.instance] = effects.client_handle(up.peer);
          return;
        }
        if (up.peer.role == schema::Role::GATEWAY) {
          if (options.head)
            self->state.gateways[up.peer.node] = {up.peer, effects.gateway_handle(up.peer), {}};
          return;
        }
        self->state.nodes[up.peer.node] = up.peer;
        self->state.nodes_since_s[up.peer.node] = unix_s();
        self->state.handles[up.peer.node] = effects.node_handle(up.peer);
        log::info("node.linked", {{"node", up.peer.node}, {"pid", up.peer.pid}});
        self->state.told.erase(up.peer.node);
        self->state.problems.erase(up.peer.node);
        if (options.head)
          tell_nodes(self, options.config);
        else if (self->state.own_problem)
          self->send(self->state.handles[up.peer.node], self->state.own_problem);
      },
      [self](const PeerDown& down) {
        if (down.peer.role == schema::Role::CLIENT) {
          self->state.clients.erase(down.peer.instance);
          return;
        }
        if (down.peer.role == schema::Role::GATEWAY) {
          const auto seen = self->state.gateways.find(down.peer.node);
          if (seen != self->state.gateways.end() && seen->second.peer.incarnation == down.peer.incarnation)
            self->state.gateways.erase(seen);
          return;
        }
        const auto known = self->state.nodes.find(down.peer.node);
        if (known == self->state.nodes.end() || known->second.incarnation != down.peer.incarnation) return;
        self->state.nodes.erase(known);
        self->state.nodes_since_s[down.peer.node] = unix_s();
        self->state.handles.erase(down.peer.node);
        log::warn("node.unlinked", {{"node", down.peer.node}, {"reason", down.reason}});
      },
      [](caf::tick_atom) {},
      // Their stages are needed until then. A head that was told otherwise ends alone; nodes of other
      // machines stay, for the next one.
      [self](Drained) {
        if (!self->state.shutdown) return;
        for (const auto& [name, other] : self->state.handles)
          if (self->state.nodes.at(name).here) self->send(other, self->state.shutdown);
      },
  };
}

}  // namespace convoy::actors
