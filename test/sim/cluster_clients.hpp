#pragma once
// Clients: the gateway's part and its clients' of a simulated cluster. They outlive heads: what is left of an
// answer is asked of the next one, whose router may give it to another pipeline. Every token is held against
// what the request gets alone.

#include <caf/all.hpp>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "actors/messages.hpp"
#include "test/sim/cluster_world.hpp"
#include "test/sim/timeline.hpp"

namespace sim {

/// What happened to requests.
struct Answers {
  uint64_t complete = 0, row_faults = 0, cancelled = 0, past_deadline = 0, replayed_too_often = 0;
  uint64_t rejected = 0, asked_again = 0, duplicates = 0, tokens = 0;
  uint64_t by_second = 0;  // that a second pipeline completed
  uint64_t moved = 0;      // that went on in another pipeline than the one they got tokens of before
};

class Clients {
 public:
  Clients(const ClusterWorld& world, Timeline& timeline);

  /// From now on that head serves. All that is under way is asked of it.
  void serve(convoy::actors::RouterActor router, std::vector<convoy::actors::PipelineActor> pipelines);
  /// It is gone, and what it had.
  void lose_head();
  /// What its router or a pipeline said. Throws Violation if it is wrong.
  void hear(const caf::message& said);

  /// Faults. False: there is nobody to whom they could happen.
  bool duplicate(uint64_t draw);
  bool ask_again(uint64_t draw);

  bool done() const { return open_ == 0; }
  /// Who waits, for a message.
  std::string describe() const;
  bool ready(size_t pipeline) const { return views_[pipeline].ready; }
  /// No pipeline has a stage behind another: of nodes that are members some may be left out of the plan.
  bool all_of_one_stage() const;
  /// All pipelines are ready; nothing runs and nothing waits, and no block is held.
  bool rest() const;
  const Answers& answers() const { return answers_; }
  uint64_t preemptions() const;

 private:
  /// A pipeline, by what it said last.
  struct View {
    bool ready = false, idle = false;
    std::string why_not_ready = "there is no head";
    uint64_t epoch = 0;   // of the head
    uint64_t epochs = 0;  // of all heads
    uint64_t preempted = 0, preempted_before = 0;
    uint32_t running = 0, waiting = 0, stages = 0;
  };
  struct Session {
    enum class State : uint8_t { coming, asked, accepted, ended } state = State::coming;
    uint32_t attempt = 0, received = 0;
    std::optional<size_t> pipeline;  // that accepted an attempt last
    std::optional<size_t> gave;      // that the latest token is of
    uint64_t epochs = 0;             // that had been there
    uint64_t deadline_ms = 0;
  };
  void come(size_t index);
  void ask(size_t index);
  void ask_later(size_t index);
  void give_up(size_t index);
  void end(Session& session, uint64_t Answers::*how);
  void cancel(size_t index, const std::optional<size_t>& pipeline);
  convoy::actors::Frame<convoy::schema::Generate> frame_of(size_t index) const;
  void accepted(convoy::schema::Accepted::Reader accepted);
  void rejected(convoy::schema::Rejected::Reader rejected);
  void take(convoy::schema::Tokens::Reader tokens);
  void take(convoy::schema::Finished::Reader finished);
  void take(convoy::schema::PipelineState::Reader state);
  Session* current(uint64_t number, uint32_t attempt);

  const ClusterWorld& world_;
  Timeline& timeline_;
  convoy::actors::RouterActor router_;                    // null: there is no head
  std::vector<convoy::actors::PipelineActor> pipelines_;  // empty as well
  std::vector<View> views_;                               // of each
  std::vector<Session> sessions_;
  size_t open_;
  Answers answers_;
};

}  // namespace sim
