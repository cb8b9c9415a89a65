#pragma once
// Cluster: one world's pipelines with their router and their stages, as production runs them but for sockets,
// devices and time, with their supervisor, their gateway and what fails. Checked all the while:
//  - each request that is taken ends once, with the tokens that it gets alone, without gap or repeat; or with
//    an error that its client sees: its deadline passed, or it was replayed more than replays_max times;
//  - a stage is never told an epoch that is not above the one that it is in, whichever head says it;
//  - nodes join and are drained meanwhile, and nobody notices by the answers;
//  - pipelines of one model are no part of each other: a request may begin in one and go on in the other;
//  - when nothing fails any more each pipeline is ready, all requests end and no block stays held, in time.

#include <array>
#include <memory>
#include <vector>

#include "test/sim/cluster_clients.hpp"
#include "test/sim/cluster_members.hpp"

namespace sim {

/// A mistake that a test makes on purpose.
enum class ClusterPlant : uint8_t {
  none,
  skipped_token,          // a stage does not keep a position
  doubled_tokens,         // the gateway hears a step twice
  stale_epoch,            // a stage takes a frame of an epoch that is over
  believed_links,         // a head raises its first epoch before its stages have said theirs
  believed_links_unseen,  // the same, and epochs are not checked: it is found by what comes of it
};

/// What happened in a cluster.
struct ClusterEvents {
  std::array<uint64_t, faults_count> faults{};
  uint64_t reordered = 0, stale = 0, preemptions = 0, virtual_ms = 0, frames = 0, drains = 0, joins = 0,
           rebalanced = 0, two_pipelines = 0;
  Answers answers;

  /// What each of the many worlds is for; figures are all else.
  template <class Visit>
  void each(Visit visit) const {
    constexpr const char* names[]{"stages killed",       "stages hung",          "stages frozen",
                                  "heads frozen",        "head links cut",       "stage links cut",
                                  "links delayed",       "heads killed",         "heads killed with a stage",
                                  "requests duplicated", "requests asked again", "members changed",
                                  "networks parted"};
    static_assert(std::size(names) == faults_count);
    for (size_t i = 0; i < faults_count; ++i) visit(names[i], faults[i]);
    visit("frames reordered", reordered), visit("frames of processes before", stale);
    visit("preemptions", preemptions), visit("cancels", answers.cancelled);
    visit("deadlines", answers.past_deadline), visit("answers complete", answers.complete);
    visit("answers of a second pipeline", answers.by_second);
    visit("answers that went on in another pipeline", answers.moved);
  }
  template <class Visit>
  void each_figure(Visit visit) const {
    visit("clusters of two pipelines", two_pipelines);
    visit("nodes drained", drains), visit("nodes joined", joins);
    visit("layers moved for speed", rebalanced);
    visit("answers replayed too often", answers.replayed_too_often);
    visit("answers of a faulty row", answers.row_faults), visit("rejections", answers.rejected);
    visit("tokens", answers.tokens), visit("frames", frames), visit("virtual ms", virtual_ms);
  }
};

/// A part of a lease, by what a fault has drawn.
Timeline::Duration of_lease(const ClusterWorld& world, double least, double most, uint64_t draw);

class Cluster {
 public:
  explicit Cluster(const ClusterWorld& world, ClusterPlant plant = ClusterPlant::none);

  /// Until all requests ended and the pipelines rest. Throws Violation if something is wrong.
  ClusterEvents run();

 private:
  /// A stage's place, and who has it.
  struct Place {
    StageMember* member = nullptr;  // null: to be started, if it is kept
    bool kept = false;              // by its node, as the head said last
    uint32_t failures = 0;
    Timeline::Time started{};
  };
  void start_head();
  void start_stage(uint32_t place);
  void keep_members(const std::string& pipeline, const convoy::actors::Members& members);
  convoy::actors::MembersByPipeline kept_members() const;
  void keep(uint32_t place, bool keep);
  void end_head();
  void end_stage(StageMember& member);
  void replace(uint32_t place, uint64_t incarnation);
  convoy::actors::ProcessState state_of(const convoy::actors::PeerIdentity& peer) const;
  convoy::actors::PeerIdentity identity(convoy::schema::Role role, const std::string& node);

  bool step();
  Timeline::Time next_due() const;
  bool resting() const;
  unsigned inspect(const Process& from, const Process& to, convoy::actors::Outgoing& frame);
  void renew(const Process& to, convoy::actors::Outgoing& frame);
  bool due_for_plant() { return ++plants_ % plant_every == 0; }
  void check_assign(const Process& to, const convoy::actors::Outgoing& frame);

  // Faults. False: there is nobody to whom it could happen now.
  void strike(PlannedFault fault);
  bool happen(const PlannedFault& fault);
  std::vector<StageMember*> stages_there() const;
  StageMember* stage_for(uint64_t draw) const;
  size_t pipeline_of(const StageMember& stage) const { return world_.nodes[stage.place()].pipeline; }
  bool kill(StageMember& stage, uint64_t draw);
  bool freeze(Process& process, uint64_t draw);
  bool break_link(Process& a, Process& b, uint64_t draw);
  bool cut_stage_link(uint64_t draw);
  bool delay_link(uint64_t draw);
  using Linked = std::pair<Process*, Process*>;
  std::optional<Linked> any_linked(const std::vector<Process*>& of, uint64_t draw) const;
  bool change_members(uint64_t draw);
  bool part_nodes(uint64_t draw);
  void order(uint32_t place, Timeline::Duration takes, std::function<void()> what);

  static constexpr uint64_t plant_every = 10;  // times that a mistake could be made

  const ClusterWorld& world_;
  const ClusterPlant plant_;
  Timeline timeline_;
  Random random_;
  Network network_;
  const Site site_;
  Clients clients_;
  std::vector<Process*> running_;
  std::vector<Place> places_;   // each is a node's
  std::string members_file_;    // as heads keep it
  HeadMember* head_ = nullptr;  // null: to be started
  uint64_t next_incarnation_ = 1;
  size_t faults_left_;
  Timeline::Time last_fault_{};
  uint64_t plants_ = 0;
  ClusterEvents happened_;
  // Those that ended, too: links remember them.
  std::vector<std::unique_ptr<StageMember>> stages_;
  std::vector<std::unique_ptr<HeadMember>> heads_;
};

}  // namespace sim
