// Pipeline: who belongs to the cluster, and the plan that follows from it.

#include <algorithm>
#include <utility>

#include "actors/pipeline_impl.hpp"
#include "actors/process/log.hpp"
#include "model/error.hpp"

namespace convoy::actors {

namespace {

/// Of what a step takes in the slowest stage: layers do not move for less.
constexpr double rebalance_gain_min = 0.2;

Balance balance_of(const std::vector<PlannedStage>& plan, const std::vector<StageOffer>& offers) {
  Balance balance(offers.size());
  for (size_t i = 0; i < offers.size(); ++i) {
    const auto planned = std::ranges::find(plan, offers[i].name, &PlannedStage::name);
    if (planned != plan.end()) balance[i] = planned->layers;
  }
  return balance;
}

std::optional<MemberCommand::Kind> decode(msg::MemberCommand::Kind kind) {
  switch (kind) {
    case msg::MemberCommand::Kind::ADD:
      return MemberCommand::Kind::add;
    case msg::MemberCommand::Kind::UNDRAIN:
      return MemberCommand::Kind::undrain;
    case msg::MemberCommand::Kind::DRAIN:
      return MemberCommand::Kind::drain;
    case msg::MemberCommand::Kind::REMOVE:
      return MemberCommand::Kind::remove;
  }
  return std::nullopt;  // of a newer version
}

}  // namespace

void PipelineData::member_command(const Frame<msg::MemberCommand>& frame) {
  const msg::Reading c(frame);
  const auto kind = decode(c->getKind());
  const auto refused =
      kind ? change_members({*kind, c->getNode(), c->getListen(), c->getStages()})
           : std::optional<std::string>("this head does not know the command; run one version of Convoy");
  msg::FrameBuilder<msg::MemberReply> reply;
  reply->setClient(c->getClient());
  reply->setRefused(refused.value_or(""));
  self->send(peers.node, std::move(reply).finish());
}

/// Why not, or nothing: then it is done, and kept.
std::optional<std::string> PipelineData::change_members(const MemberCommand& command) {
  if (command.kind == MemberCommand::Kind::remove && stages.heard_of(command.node) > 0)
    return "stages of node " + command.node + " run; drain it first, and wait until they have ended";
  const auto applied = apply(members, command, static_cast<uint32_t>(options.costs.layers));
  if (const auto* const refused = std::get_if<MemberRefused>(&applied)) return refused->why;
  const auto& next = std::get<Members>(applied);
  if (auto why = refuse(next)) return why;
  try {
    if (peers.keep_members) peers.keep_members(next);
  } catch (const InputError& e) {
    return e.what();
  }
  log::info("pipeline.members",
            {{"pipeline", options.name}, {"node", command.node}, {"revision", next.revision}});
  follow(next);
  if (command.kind == MemberCommand::Kind::undrain) arrived(command.node);  // if its stages still run
  return std::nullopt;
}

/// Why the plan of these members cannot be.
std::optional<std::string> PipelineData::refuse(const Members& next) const {
  const auto wanted = plan_of(next, options.costs, known_offers());
  if (!peers.refuse_plan || names_of(wanted) == names_of(plan)) return std::nullopt;
  return peers.refuse_plan(wanted, peers_of(wanted));
}

/// Who is there of them; of nobody there: one without a node.
std::vector<PeerIdentity> PipelineData::peers_of(const std::vector<PlannedStage>& wanted) const {
  std::vector<PeerIdentity> there;
  for (const PlannedStage& stage : wanted) {
    const auto index = stages.find(stage.name);
    there.push_back(index ? stages.stage(*index).peer : PeerIdentity{});
  }
  return there;
}

/// Another plan begins at once: what is in flight is computed again. Of its stages those that load have
/// nothing to do with those before.
void PipelineData::follow(Members next) {
  members = std::move(next);
  std::erase_if(not_joined_yet, [this](const auto& entry) {
    const Member* const member = members.find(entry.first);
    return !member || member->state != MemberState::joining;
  });
  learn_speeds();
  auto wanted = plan_of(members, options.costs, known_offers());
  if (names_of(wanted) == names_of(plan)) return publish();
  rebalanced = false;
  adopt(std::move(wanted));
}

void PipelineData::adopt(std::vector<PlannedStage> wanted) {
  plan = std::move(wanted);
  plan_steps = 0;
  begin_epoch(Scheduler::EpochCause::no_request);
  scheduler.set_stages(static_cast<uint32_t>(plan.size()));
  const bool all_there = stages.replan(names_of(plan), self->clock().now());
  log::info("pipeline.plan",
            {{"pipeline", options.name}, {"stages", plan.size()}, {"revision", members.revision}});
  if (all_there) return raise_epoch(Scheduler::EpochCause::no_request);
  publish();
}

/// What a layer takes in the stages of the plan, of which their costs are known by enough steps.
void PipelineData::learn_speeds() {
  if (plan_steps < options.rebalance_steps) return;
  for (size_t i = 0; i < plan.size(); ++i) {
    const StepCost& cost = stages.stages()[i].cost;
    if (cost.measured())
      layer_us[plan[i].name] = cost.of(balance_rows) / work_of(options.costs, plan[i].layers);
  }
}

std::vector<StageOffer> PipelineData::known_offers() const {
  std::vector<StageOffer> offers;
  for (const auto& [name, stage] : handles) {
    const PeerIdentity& peer = stages.stage(*stages.find(name)).peer;
    const auto us = layer_us.find(name);
    offers.push_back(
        {name, peer.machine, peer.card, peer.memory_bytes, us != layer_us.end() ? us->second : 0});
  }
  return offers;
}

/// Layers move once after members have changed, if what was measured since says that it is worth the pause.
void PipelineData::rebalance() {
  learn_speeds();
  if (rebalanced || stages.phase() != Phase::serving) return;
  const auto known = known_offers();
  auto wanted = plan_of(members, options.costs, known);
  const auto offers = offers_of(members, known);
  const double now_us = slowest_us(options.costs, offers, balance_of(plan, offers)),
               then_us = slowest_us(options.costs, offers, balance_of(wanted, offers));
  rebalanced = true;
  if (then_us > (1 - rebalance_gain_min) * now_us) return;
  if (const auto why = peers.refuse_plan ? peers.refuse_plan(wanted, peers_of(wanted)) : std::nullopt)
    return log::warn("pipeline.not_rebalanced", {{"pipeline", options.name}, {"reason", *why}});
  rebalanced = prepare(wanted);
  if (!rebalanced) return;  // fetched() comes back to it
  rebalanced_total->Increment();
  log::info("pipeline.rebalanced",
            {{"pipeline", options.name}, {"slowest_stage_us", now_us}, {"expected_us", then_us}});
  adopt(std::move(wanted));
}

/// A stage of that node, which has no part in the plan, is there.
void PipelineData::arrived(const std::string& node) {
  const Member* const member = members.find(node);
  if (!member || member->state != MemberState::joining || stages.heard_of(node) < member->stages)
    return publish();
  learn_speeds();  // so that what is prepared is the plan that comes
  const MemberCommand command{MemberCommand::Kind::arrived, node};
  const auto applied = apply(members, command, static_cast<uint32_t>(options.costs.layers));
  const auto* const next = std::get_if<Members>(&applied);
  if (next && !refuse(*next) && !prepare(plan_of(*next, options.costs, known_offers()))) return publish();
  const auto refused = change_members(command);
  if (!refused) return;
  log::warn_limited("pipeline.not_joined",
                    {{"pipeline", options.name}, {"node", node}, {"reason", *refused}});
  not_joined_yet[node] = *refused;
  publish();
}

/// Whether all stages of a plan to come have their weights, or can read them from their disk. Those that lack
/// some are told to fetch them, while the others go on: what they fetch in an epoch, everybody waits for.
bool PipelineData::prepare(const std::vector<PlannedStage>& wanted) {
  bool all = true;
  for (const PlannedStage& stage : wanted) {
    const auto index = stages.find(stage.name);
    if (!index) continue;
    const StageSet::Stage& there = stages.stage(*index);
    if (!there.lacks_model || there.fetched == stage.layers) continue;
    all = false;
    const auto told = prepared.find(stage.name);
    if (told != prepared.end() && told->second == stage.layers) continue;
    prepared[stage.name] = stage.layers;
    msg::FrameBuilder<msg::Prepare> order;
    order->setFirstLayer(static_cast<uint32_t>(stage.layers.first));
    order->setLastLayer(static_cast<uint32_t>(stage.layers.last));
    self->send(handle(*index), std::move(order).finish());
  }
  return all;
}

/// A stage has layers that it had not: a node may have waited for that, or layers that are to move.
void PipelineData::fetched() {
  std::vector<std::string> waiting;
  for (const Member& member : members.list)
    if (member.state == MemberState::joining) waiting.push_back(member.node);
  for (const std::string& node : waiting) arrived(node);
  if (plan_steps > options.rebalance_steps) rebalance();
}

void PipelineData::encode_members(msg::PipelineState::Builder state) const {
  std::vector<const Member*> shown;
  for (const Member& m : members.list)
    if (m.state != MemberState::removed) shown.push_back(&m);
  auto list = state.initMembers(static_cast<unsigned>(shown.size()));
  for (unsigned i = 0; i < list.size(); ++i) {
    const Member& m = *shown[i];
    const bool any_linked =
        std::ranges::any_of(handles, [&](const auto& entry) { return entry.first.node == m.node; });
    list[i].setNode(m.node);
    list[i].setListen(m.listen);
    list[i].setStages(m.stages);
    list[i].setState(m.state == MemberState::joining   ? msg::Member::State::JOINING
                     : m.state == MemberState::serving ? msg::Member::State::SERVING
                     : any_linked                      ? msg::Member::State::DRAINING
                                                       : msg::Member::State::DRAINED);
    const bool planned =
        std::ranges::any_of(plan, [&](const PlannedStage& stage) { return stage.name.node == m.node; });
    if (const auto why = not_joined_yet.find(m.node); why != not_joined_yet.end())
      list[i].setReason(why->second);
    else if (m.state == MemberState::serving && !planned)
      list[i].setReason(
          "left out: a layer takes its stages longer than the slowest of the others takes for all "
          "of theirs");
    else if (m.state == MemberState::joining)
      list[i].setReason(stages.why_beside(m.node));
  }
}

}  // namespace convoy::actors
