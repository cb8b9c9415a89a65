#pragma once
// Supervisor: the stage processes of one node. Starts each, notices its end, starts it again. One thread owns
// all children (the kernel ends them with that thread, so no stage outlives its node); any thread may call
// the functions.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace convoy::actors {

/// How long to wait before a child is started again that ended `failures` times in a row without living
/// `stable_ms`: at once the first time, then 100 ms doubling to 5 s, so that a model that cannot load does
/// not spin.
uint32_t restart_delay_ms(uint32_t failures);

class Supervisor {
 public:
  /// The command line of a child; called on the supervisor's thread.
  using Command = std::function<std::vector<std::string>(uint32_t instance, uint64_t incarnation)>;

  struct Child {
    uint32_t instance = 0;
    uint64_t incarnation = 0;
    int32_t pid = 0;  // 0: not running, will be started again
    uint32_t restarts = 0;
    std::string last_end;  // how the process before ended; empty if there was none
  };

  explicit Supervisor(Command command);
  ~Supervisor();  // stop()
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;

  /// Starts a child and keeps it alive from then on.
  void keep(uint32_t instance);
  /// Kills (−9) that process, or with incarnation 0 whichever runs; it is then started again. Another
  /// incarnation is left alone: it is newer.
  void replace(uint32_t instance, uint64_t incarnation);
  /// Ends all children: SIGTERM, then SIGKILL after grace_ms. Returns when they are gone.
  void stop(uint32_t grace_ms = 2000);
  std::vector<Child> children() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Starts a program with posix_spawn (never fork: threads may run) and a fresh signal mask. Its standard
/// input is /dev/null; output goes to log_file if one is given. Returns its pid. Throws InputError naming the
/// program.
int spawn_process(const std::vector<std::string>& command, const std::string& log_file, bool new_session);

/// A number for a new process that no earlier one of this node had.
uint64_t new_incarnation();

/// For a child's main(): ask the kernel for SIGKILL when the supervisor's thread ends. Exits if that already
/// happened.
void die_with_parent(int32_t parent_pid);

}  // namespace convoy::actors
