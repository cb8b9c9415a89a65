#pragma once
// Clients: the gateway's part and its clients' of a simulated cluster. They outlive heads: what is left of an
// answer is asked of the next one. Every token is held against what the request gets alone.

#include <caf/all.hpp>
#include <functional>
#include <map>
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
};

class Clients {
 public:
  Clients(const ClusterWorld& world, Timeline& timeline);

  /// From now on that head serves. All that is under way is asked of it.
  void serve(convoy::actors::PipelineActor pipeline);
  /// It is gone, and what it had.
  void lose_head();
  /// What the pipeline said. Throws Violation if it is wrong.
  void hear(const caf::message& said);

  /// Faults. False: there is nobody to whom they could happen.
  bool duplicate(uint64_t draw);
  bool ask_again(uint64_t draw);

  bool done() const { return open_ == 0; }
  /// Who waits, for a message.
  std::string describe() const;
  bool ready() const { return ready_; }
  /// Nothing runs and nothing waits, and no block is held.
  bool idle() const { return idle_; }
  const std::string& why_not_ready() const { return why_not_ready_; }
  const Answers& answers() const { return answers_; }
  uint64_t preemptions() const { return preempted_before_ + preempted_; }

 private:
  struct Session {
    enum class State : uint8_t { coming, asked, accepted, ended } state = State::coming;
    uint32_t attempt = 0, received = 0;
    uint64_t epochs = 0;  // that had been when this attempt was asked for
    uint64_t deadline_ms = 0;
  };
  void come(size_t index);
  void ask(size_t index);
  void ask_later(size_t index);
  void give_up(size_t index);
  void end(Session& session, uint64_t Answers::*how);
  convoy::actors::Frame<convoy::schema::Generate> frame_of(size_t index) const;
  void accepted(convoy::schema::Accepted::Reader accepted);
  void rejected(convoy::schema::Rejected::Reader rejected);
  void take(convoy::schema::Tokens::Reader tokens);
  void take(convoy::schema::Finished::Reader finished);
  void take(convoy::schema::PipelineState::Reader state);
  Session* current(uint64_t number, uint32_t attempt);

  const ClusterWorld& world_;
  Timeline& timeline_;
  convoy::actors::PipelineActor pipeline_;
  std::vector<Session> sessions_;
  size_t open_;
  bool ready_ = false, idle_ = false;
  std::string why_not_ready_ = "there is no head";
  uint64_t epoch_ = 0;   // of the head
  uint64_t epochs_ = 0;  // of all heads
  uint64_t preempted_ = 0, preempted_before_ = 0;
  uint32_t running_ = 0, waiting_ = 0;
  Answers answers_;
};

}  // namespace sim
