#pragma once
// ActorWatch: a process is nothing without its actors. When one of those it holds ends before its time, the
// process is told to end, and its exit code says so to whoever supervises it. The main thread owns it; the
// actors' threads call back.

#include <atomic>
#include <caf/all.hpp>
#include <string>

#include "cli/commands.hpp"

namespace convoy::cli {

class ActorWatch {
 public:
  /// Must outlive the actor. If that has ended already, it is as if it ended now.
  template <class Handle>
  void hold(const Handle& actor, const char* name) {
    caf::actor_cast<caf::abstract_actor*>(actor)->attach_functor(
        [this, name](const caf::error& reason) { ended(name, reason); });
  }
  /// From now on actors end because their process does.
  void let_go() { let_go_ = true; }
  /// `internal` if an actor was lost, else what the process would end with.
  int exit_code(int otherwise) const { return lost_ ? internal : otherwise; }

 private:
  void ended(const char* name, const caf::error& reason);

  std::atomic<bool> let_go_ = false, lost_ = false;
};

}  // namespace convoy::cli
