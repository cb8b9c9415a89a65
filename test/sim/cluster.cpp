#include "test/sim/cluster.hpp"

#include <algorithm>

#include "actors/stage/step_codec.hpp"
#include "actors/supervisor.hpp"

namespace sim {

using namespace convoy;
using std::chrono::milliseconds;

namespace {

constexpr uint32_t stable_ms = 100;          // a stage that lived longer did not fail to start
constexpr milliseconds rest_within{10'000};  // behind the last fault and the last request, beside work
constexpr uint64_t turns_max = 100'000;      // in which no time passes

NetworkOptions network_options(const ClusterWorld& world) {
  NetworkOptions options;
  options.limits.lease_ms = world.lease_ms;
  options.latency_us = world.latency_us;
  return options;
}

/// What all requests take that are served one after the other.
Timeline::Duration work_of(const ClusterWorld& world) {
  double work_us = 0;
  for (const Request& r : world.requests) {
    const double rows = static_cast<double>(r.sequence.prompt.size() + r.answer.size());
    const double steps = rows / world.limits.prefill_tokens + static_cast<double>(1 + r.answer.size());
    work_us += static_cast<double>(world.nodes.size()) *
               (steps * (world.fixed_us + world.latency_us) + rows * world.per_row_us);
  }
  return us(work_us);
}

}  // namespace

Timeline::Duration of_lease(const ClusterWorld& world, double least, double most, uint64_t draw) {
  return us(1000 * world.lease_ms * (least + (most - least) * static_cast<double>(draw % 1000) / 1000));
}

Cluster::Cluster(const ClusterWorld& world, ClusterPlant plant)
    : world_(world),
      plant_(plant),
      random_(~world.seed),
      network_(timeline_, random_, network_options(world)),
      site_{world, timeline_, random_, network_},
      clients_(world, timeline_),
      places_(world.nodes.size()),
      faults_left_(world.faults.size()) {
  network_.inspect = [this](const Process& from, const Process& to, actors::Outgoing& frame) {
    return inspect(from, to, frame);
  };
  for (const PlannedFault& fault : world.faults)
    timeline_.after(us(fault.at_us), [this, fault] { strike(fault); });
  actors::MembersByPipeline members;
  for (uint32_t i = 0; i < places_.size(); ++i) {
    const ClusterWorld::Node& node = world.nodes[i];
    places_[i].kept = node.serves;
    members[name_of_pipeline(node.pipeline)].list.push_back(
        {node_of(i), head_host, 1, true,
         node.serves ? actors::MemberState::serving : actors::MemberState::drained});
    start_stage(i);
  }
  members_file_ = actors::text_of(members);
  start_head();
}

ClusterEvents Cluster::run() {
  const auto last_arrival = timeline_.now() + us(world_.requests.back().arrives_us);
  const auto work = work_of(world_);
  uint64_t turns = 0;
  while (!resting()) {
    if (step()) {
      require(++turns < turns_max, "no time passes");
      continue;
    }
    turns = 0;
    timeline_.advance(next_due());
    const auto rest_by = std::max(last_fault_, last_arrival) + rest_within + work;
    if (faults_left_ == 0 && timeline_.now() > rest_by)
      throw Violation("no rest " + std::to_string(rest_within.count()) +
                      " ms behind the last fault:" + clients_.describe());
  }
  happened_.reordered = network_.reordered();
  happened_.stale = network_.stale();
  happened_.preemptions = clients_.preemptions();
  happened_.answers = clients_.answers();
  if (head_) happened_.rebalanced += head_->rebalanced();
  happened_.two_pipelines = world_.pipelines > 1;
  happened_.virtual_ms = wall_ms(timeline_) - wall_ms(Timeline());
  return happened_;
}

/// Something that can happen now happens.
bool Cluster::step() {
  if (timeline_.run_one()) return true;
  const size_t first = random_.between(0, running_.size());
  for (size_t i = 0; i < running_.size(); ++i)
    if (running_[(first + i) % running_.size()]->run_one(random_)) return true;
  return false;
}

Timeline::Time Cluster::next_due() const {
  auto next = timeline_.next();
  for (const Process* process : running_) next = std::min(next, process->next_due());
  require(next != Timeline::never, "nothing will ever happen");
  return next;
}

bool Cluster::resting() const {
  return faults_left_ == 0 && clients_.done() && head_ && clients_.rest() &&
         std::ranges::none_of(running_, &Process::frozen);
}

// ---- processes, and who keeps them alive ----

actors::PeerIdentity Cluster::identity(schema::Role role, const std::string& node) {
  actors::PeerIdentity self;
  self.node = node;
  self.role = role;
  self.incarnation = next_incarnation_++;
  self.pid = static_cast<int32_t>(self.incarnation);
  self.listen_host = head_host;
  self.listen_port =
      static_cast<uint16_t>(role == schema::Role::NODE ? head_port : head_port + self.incarnation);
  return self;
}

void Cluster::start_head() {
  HeadMember::Orders orders;
  orders.to_gateway = [this](const caf::message& said) {
    clients_.hear(said);
    const bool step = said.match_elements<actors::Frame<schema::StepTokens>>();
    if (plant_ == ClusterPlant::doubled_tokens && step && due_for_plant()) clients_.hear(said);
  };
  orders.members = kept_members();
  orders.keep_members = [this](const std::string& pipeline, const actors::Members& members) {
    keep_members(pipeline, members);
  };
  orders.keep = [this](uint32_t place, bool kept) { keep(place, kept); };
  orders.replace = [this](uint32_t place, uint64_t incarnation) {
    // The order travels to the stage's node, which may be busy.
    const auto takes =
        random_.chance(0.3) ? of_lease(world_, 0, 3, random_.between(0, 999)) : us(world_.latency_us);
    order(place, takes, [=, this] { replace(place, incarnation); });
  };
  orders.process_state = [this](const actors::PeerIdentity& peer) { return state_of(peer); };
  orders.believes_links =
      plant_ == ClusterPlant::believed_links || plant_ == ClusterPlant::believed_links_unseen;
  heads_.push_back(
      std::make_unique<HeadMember>(site_, identity(schema::Role::NODE, head_host), std::move(orders)));
  head_ = heads_.back().get();
  running_.push_back(&head_->process());
  clients_.serve(head_->router(), head_->pipelines());
}

void Cluster::end_head() {
  std::erase(running_, &head_->process());
  clients_.lose_head();
  happened_.rebalanced += head_->rebalanced();
  head_->end();
  head_ = nullptr;
  timeline_.after(us(random_.time(world_.start_us)), [this] { start_head(); });
}

void Cluster::keep_members(const std::string& pipeline, const actors::Members& members) {
  auto all = kept_members();
  const uint64_t before = all.at(pipeline).revision;
  require(members.revision > before, "members of revision ", members.revision, " come behind ", before);
  require(members.stages() > 0, "no stage is left");
  all[pipeline] = members;
  members_file_ = actors::text_of(all);
}

actors::MembersByPipeline Cluster::kept_members() const {
  return actors::read_members(members_file_, "the members");
}

/// It travels to the node, when that can be reached.
void Cluster::order(uint32_t place, Timeline::Duration takes, std::function<void()> what) {
  timeline_.after(takes, [=, this, what = std::move(what)] {
    const auto parted = network_.parted_until(head_host, node_of(place));
    if (parted <= timeline_.now()) return what();
    order(place, parted - timeline_.now(), what);
  });
}

void Cluster::keep(uint32_t index, bool kept) {
  if (std::exchange(places_[index].kept, kept) == kept) return;
  order(index, us(world_.latency_us), [this, index] {
    Place& place = places_[index];
    if (!place.kept && place.member) end_stage(*place.member);
    if (place.kept) timeline_.after(us(random_.time(world_.start_us)), [this, index] { start_stage(index); });
  });
}

void Cluster::start_stage(uint32_t place) {
  if (places_[place].member || !places_[place].kept) return;
  auto self = identity(schema::Role::STAGE, node_of(place));
  self.machine = self.node;
  // Who names none serves the first.
  if (const size_t pipeline = world_.nodes[place].pipeline; pipeline > 0)
    self.pipeline = name_of_pipeline(pipeline);
  StageMember::Orders orders;
  orders.gives_up = [this, place, incarnation = self.incarnation] { replace(place, incarnation); };
  orders.skips = [this] { return plant_ == ClusterPlant::skipped_token && due_for_plant(); };
  stages_.push_back(std::make_unique<StageMember>(site_, self, std::move(orders)));
  places_[place].member = stages_.back().get();
  places_[place].started = timeline_.now();
  running_.push_back(&stages_.back()->process());
}

void Cluster::end_stage(StageMember& member) {
  Place& place = places_[member.place()];
  happened_.faults[static_cast<size_t>(Fault::hang_stage)] += member.hung();
  std::erase(running_, &member.process());
  member.end();
  place.member = nullptr;
  const auto lived = std::chrono::duration_cast<milliseconds>(timeline_.now() - place.started);
  place.failures = actors::failures_in_a_row(place.failures, lived, stable_ms);
  const milliseconds waits = actors::restart_wait(place.failures, lived);
  timeline_.after(waits + us(random_.time(world_.start_us)),
                  [this, index = member.place()] { start_stage(index); });
}

void Cluster::replace(uint32_t place, uint64_t incarnation) {
  StageMember* const member = places_[place].member;
  if (member && (incarnation == 0 || member->process().self().incarnation == incarnation)) end_stage(*member);
}

actors::ProcessState Cluster::state_of(const actors::PeerIdentity& peer) const {
  for (const Process* process : running_)
    if (process->self().incarnation == peer.incarnation)
      return process->frozen() ? actors::ProcessState::stopped : actors::ProcessState::runs;
  return actors::ProcessState::unknown;
}

// ---- what is seen of frames ----

unsigned Cluster::inspect(const Process& from, const Process& to, actors::Outgoing& frame) {
  ++happened_.frames;
  const bool of_stages = from.self().role == schema::Role::STAGE && to.self().role == schema::Role::STAGE;
  require(!of_stages || from.self().pipeline == to.self().pipeline, "a stage has one of another pipeline");
  using schema::FrameTraits;
  if (frame.type == FrameTraits<schema::Assign>::type_id) check_assign(to, frame);
  if (frame.type == FrameTraits<schema::StageReport>::type_id) {
    const actors::Frame<schema::StageReport> message(frame.bytes);
    const schema::Reading report(message);
    require(report->getHealth() != schema::Health::DOWN, "stage ", report->getInstance(),
            " failed: ", report->getReason().cStr());
  }
  if (plant_ == ClusterPlant::stale_epoch && frame.type == FrameTraits<schema::Activations>::type_id)
    renew(to, frame);
  return 1;
}

/// As if nobody looked at its epoch, nor at its number.
void Cluster::renew(const Process& to, actors::Outgoing& frame) {
  const actors::Frame<schema::Activations> message(frame.bytes);
  const schema::Reading step(message);
  gpu::StepPlan plan = actors::decode(step->getPlan());
  StageMember& stage = *places_[place_of(to.self().node)].member;
  const bool stale = plan.epoch < stage.epoch_told;
  plan.epoch = stage.epoch_told;
  plan.step = stage.steps_told++;
  if (stale)
    frame.bytes = actors::encode_activations(plan, actors::decode_hidden(*step, plan).values()).bytes();
}

void Cluster::check_assign(const Process& to, const actors::Outgoing& frame) {
  StageMember* const stage = places_[place_of(to.self().node)].member;
  const actors::Frame<schema::Assign> message(frame.bytes);
  const schema::Reading assign(message);
  const uint64_t epoch = assign->getEpoch();
  require(assign->getPipeline() == name_of_pipeline(pipeline_of(*stage)).c_str(), "stage ", stage->place(),
          " is told by ", assign->getPipeline().cStr());
  require(epoch > stage->epoch_told || plant_ == ClusterPlant::believed_links_unseen, "stage ",
          stage->place(), " is told epoch ", epoch, " in epoch ", stage->epoch_told);
  stage->epoch_told = epoch;
  stage->steps_told = 0;
}

}  // namespace sim
