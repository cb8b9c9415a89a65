// Cluster: what happens to its processes and links, and to who belongs to it.

#include <algorithm>

#include "test/sim/cluster.hpp"

namespace sim {

using namespace convoy;

namespace {

constexpr std::chrono::milliseconds strike_again{20};  // where nobody was to be struck
constexpr uint64_t of_links = 1'000;                   // what chooses one of them: more than there are

}  // namespace

void Cluster::strike(PlannedFault fault) {
  const bool of_requests = fault.kind == Fault::duplicate_request || fault.kind == Fault::ask_again;
  const bool never = (fault.kind == Fault::cut_stage_link && clients_.all_of_one_stage()) ||
                     (of_requests && clients_.done());
  if (!never) {
    if (!happen(fault)) return timeline_.after(strike_again, [this, fault] { strike(fault); });
    if (fault.kind != Fault::hang_stage) ++happened_.faults[static_cast<size_t>(fault.kind)];
    last_fault_ = timeline_.now();
  }
  --faults_left_;
}

std::vector<StageMember*> Cluster::stages_there() const {
  std::vector<StageMember*> there;
  for (const Place& place : places_)
    if (place.member) there.push_back(place.member);
  return there;
}

StageMember* Cluster::stage_for(uint64_t draw) const {
  const auto there = stages_there();
  return there.empty() ? nullptr : there[draw % there.size()];
}

bool Cluster::happen(const PlannedFault& fault) {
  const uint64_t draw = fault.draw / places_.size();
  StageMember* const stage = stage_for(fault.draw);
  switch (fault.kind) {
    case Fault::kill_stage:
      return stage && kill(*stage, draw);
    case Fault::hang_stage:
      return stage && clients_.ready(pipeline_of(*stage)) && (stage->hang(), true);
    case Fault::freeze_stage:
      return stage && freeze(stage->process(), draw);
    case Fault::freeze_head:
      return head_ && freeze(head_->process(), draw);
    case Fault::cut_head_link:
      return stage && head_ && break_link(head_->process(), stage->process(), draw);
    case Fault::cut_stage_link:
      return cut_stage_link(fault.draw);
    case Fault::delay_link:
      return delay_link(fault.draw);
    case Fault::kill_head:
      return head_ && (end_head(), true);
    case Fault::kill_head_and_stage:
      return head_ && stage && (end_head(), end_stage(*stage), true);
    case Fault::duplicate_request:
      return clients_.duplicate(fault.draw);
    case Fault::ask_again:
      return clients_.ask_again(fault.draw);
    case Fault::change_members:
      return head_ && change_members(fault.draw);
    case Fault::part_nodes:
      return part_nodes(fault.draw);
  }
  return false;
}

/// At once; or what it said last is still on its way when its successor is there.
bool Cluster::kill(StageMember& stage, uint64_t draw) {
  if (draw % 4 == 0) return end_stage(stage), true;
  const auto until = timeline_.now() + of_lease(world_, 0.6, 0.75, draw / 4);
  if (head_) network_.hold(stage.process(), head_->process(), until);
  for (const Place& place : places_)
    if (place.member && place.member != &stage)
      network_.hold(stage.process(), place.member->process(), until);
  timeline_.after(of_lease(world_, 0.15, 0.35, draw / 4000),
                  [this, place = stage.place(), incarnation = stage.process().self().incarnation] {
                    replace(place, incarnation);
                  });
  return true;
}

/// For longer than a lease, or so that nobody notices.
bool Cluster::freeze(Process& process, uint64_t draw) {
  if (process.frozen()) return false;
  process.freeze();
  const auto time = draw % 2 ? of_lease(world_, 1.2, 4, draw / 2) : of_lease(world_, 0.1, 0.7, draw / 2);
  timeline_.after(time, [&process] { process.thaw(); });
  return true;
}

/// It is reset, or silent for longer than a lease, in one direction or both.
bool Cluster::break_link(Process& a, Process& b, uint64_t draw) {
  if (!network_.linked(a, b)) return false;
  if (draw % 2) return network_.cut(a, b), true;
  const auto until = timeline_.now() + of_lease(world_, 1.2, 3, draw / 6);
  if (draw / 2 % 3 != 0) network_.hold(a, b, until);
  if (draw / 2 % 3 != 1) network_.hold(b, a, until);
  return true;
}

bool Cluster::cut_stage_link(uint64_t draw) {
  std::vector<Process*> stages;
  for (StageMember* const stage : stages_there()) stages.push_back(&stage->process());
  const auto link = any_linked(stages, draw);
  return link && break_link(*link->first, *link->second, draw / of_links);
}

bool Cluster::delay_link(uint64_t draw) {
  const auto link = any_linked(running_, draw);
  if (!link) return false;
  const auto [a, b] = *link;
  draw /= of_links;
  const auto until = timeline_.now() + of_lease(world_, 0.05, 0.6, draw);
  network_.hold(*a, *b, until);
  if (draw % 2) network_.hold(*b, *a, until);
  return true;
}

std::optional<Cluster::Linked> Cluster::any_linked(const std::vector<Process*>& of, uint64_t draw) const {
  std::vector<Linked> all;
  for (Process* const a : of)
    for (Process* const b : of)
      if (a != b && network_.linked(*a, *b)) all.emplace_back(a, b);
  if (all.empty()) return std::nullopt;
  return all[draw % all.size()];
}

/// Any of the nodes with stages, from the head's and from each other's.
bool Cluster::part_nodes(uint64_t draw) {
  const uint64_t kinds = (uint64_t{1} << places_.size()) - 1, mask = 1 + draw % kinds;
  std::set<std::string> nodes;
  for (uint32_t i = 0; i < places_.size(); ++i)
    if (mask >> i & 1) nodes.insert(node_of(i));
  draw /= kinds;
  network_.part(std::move(nodes), timeline_.now() + (draw % 2 ? of_lease(world_, 1.2, 4, draw / 2)
                                                              : of_lease(world_, 0.1, 0.7, draw / 2)));
  return true;
}

/// A node of a pipeline is drained if others are left there, or comes back.
bool Cluster::change_members(uint64_t draw) {
  using actors::MemberState;
  const size_t pipeline = draw / places_.size() % world_.pipelines;
  const actors::Members members = kept_members().at(name_of_pipeline(pipeline));
  const auto& list = members.list;
  const actors::Member* member = &list[draw % list.size()];
  if (member->state == MemberState::serving && members.stages() == member->stages)
    member = &list[(draw + 1) % list.size()];
  const bool joins = member->state == MemberState::drained;
  schema::FrameBuilder<schema::MemberCommand> command;
  command->setKind(joins ? schema::MemberCommand::Kind::UNDRAIN : schema::MemberCommand::Kind::DRAIN);
  command->setNode(member->node);
  head_->process().hear([this, pipeline, frame = std::move(command).finish()] {
    if (head_) caf::anon_send(head_->pipelines()[pipeline], frame);
  });
  ++(joins ? happened_.joins : happened_.drains);
  return true;
}

}  // namespace sim
