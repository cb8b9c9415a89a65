#pragma once
// Process: what a simulated process runs: actors in a system of their own, whose clock is the timeline's. Its
// world runs it, one message at a time; production code in it does not know.

#include <caf/all.hpp>
#include <caf/scheduler/test_coordinator.hpp>
#include <deque>
#include <memory>

#include "actors/link/peer_identity.hpp"
#include "test/sim/fiber.hpp"
#include "test/sim/timeline.hpp"
#include "test/sim/world.hpp"

namespace sim {

class Process {
 public:
  Process(Timeline& timeline, convoy::actors::PeerIdentity self);
  ~Process() { end({}); }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  const convoy::actors::PeerIdentity& self() const { return self_; }
  /// While it lives.
  caf::actor_system& system() { return running_->system; }
  bool lives() const { return running_ != nullptr; }
  bool frozen() const { return frozen_; }

  /// Ends with the process. The one whose thread may block is run on a fiber.
  void hold(const caf::actor& actor) { actors_.push_back(actor); }
  void hold_blocking(const caf::actor& actor);
  /// Of the blocking actor, in what it does: its thread goes on then. In a process that has ended, at once.
  void sleep_until(Timeline::Time until);

  /// What its I/O thread finds: now, or when it is no longer frozen.
  void hear(std::function<void()> what);
  /// SIGSTOP and SIGCONT. Its clock goes on.
  void freeze() { frozen_ = true; }
  void thaw();
  /// SIGKILL. Nothing that its actors still say gets out once let_go has cut its links; it lets go of their
  /// handles, too.
  void end(const std::function<void()>& let_go);

  /// When it has something to do, if nobody sends it anything.
  Timeline::Time next_due() const;
  /// Runs an actor that has mail, any of them, for one message; or lets the blocked one go on. False: nothing
  /// can run now.
  bool run_one(Random& random);

 private:
  struct Running {
    caf::actor_system_config config;
    caf::actor_system system;
    Running();
  };
  caf::scheduler::test_coordinator& scheduler() const;
  void set_clock();

  Timeline& timeline_;
  const convoy::actors::PeerIdentity self_;
  std::unique_ptr<Running> running_;
  std::vector<caf::actor> actors_;
  caf::resumable* blocking_ = nullptr;
  Fiber fiber_;
  Timeline::Time wakes_ = Timeline::never;
  bool frozen_ = false, ended_ = false;
  std::deque<std::function<void()>> unheard_;  // in sockets' buffers
};

}  // namespace sim
