#pragma once
// Supervisor: child processes of one kind: a node's stages, its head, or that one's Redis. Starts each,
// notices its end, starts it again. One thread owns all children (the kernel can end them with that thread,
// so none outlives its node); any thread may call the functions.

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "actors/process/child_process.hpp"

namespace convoy::actors {

/// How often in a row a child has failed once it ended again: one that lived for more than stable_ms starts
/// from one.
uint32_t failures_in_a_row(uint32_t before, std::chrono::milliseconds lived, uint32_t stable_ms);
/// How long to wait before a child is started again that failed so often in a row and lived so long the last
/// time. So that a model that cannot load does not spin, starts are apart: 100 ms after the second failure,
/// doubling to 3.2 s. One that lived longer than that is started at once, however often it failed.
std::chrono::milliseconds restart_wait(uint32_t failures, std::chrono::milliseconds lived);

class Supervisor {
 public:
  struct Child {
    uint32_t instance = 0;
    uint64_t incarnation = 0;
    int32_t pid = 0;  // 0: not running, will be started again
    uint32_t restarts = 0;
    uint32_t crashes = 0;          // ends that nobody asked for, neither replace() nor stop()
    uint32_t failures = 0;         // in a row; they say how long it waits for its next start
    std::string last_end;          // how the process before ended; empty if there was none
    std::optional<int> exit_code;  // of that process; nothing if a signal ended it
    bool over = false;             // it is not started again
  };

  struct Options {
    std::string kind = "stage";  // for the log
    /// What to start; called on the supervisor's thread.
    std::function<Program(uint32_t instance, uint64_t incarnation)> program;
    /// Whether a child that ended is started again, but for the supervisor's end; called on its thread, and
    /// may not call it. Empty: always.
    std::function<bool(const Child&)> again;
    /// A child ended; called on the supervisor's thread. May be empty.
    std::function<void(const Child&)> ended;
    uint32_t stable_ms = 10'000;  // a child that lived longer did not fail to start
    /// Processes that are started already, and take the place of a child that is to start, however often it
    /// failed: each then reads "INSTANCE INCARNATION" and a newline from its standard input. What one runs;
    /// called on the supervisor's thread.
    uint32_t spares = 0;
    std::function<Program()> spare;
    uint32_t spare_after_ms = 2000;  // behind the start of a child, which needs the cores
  };

  /// Throws std::system_error if there is no thread or no descriptor for it.
  explicit Supervisor(Options options);
  ~Supervisor();  // stop()
  Supervisor(const Supervisor&) = delete;
  Supervisor& operator=(const Supervisor&) = delete;

  /// Starts a child and keeps it alive from then on.
  void keep(uint32_t instance);
  /// Kills (−9) a child, which is not started again unless it is to be kept again. One that is not there is
  /// none already.
  void release(uint32_t instance);
  /// Kills (−9) that process, or with incarnation 0 whichever runs; it is then started again. Another
  /// incarnation is left alone: it is newer.
  void replace(uint32_t instance, uint64_t incarnation);
  /// Signals all that run.
  void signal(int number);
  /// Ends all children: SIGTERM, then SIGKILL after grace_ms. Returns when they are gone.
  void stop(uint32_t grace_ms = 2000);
  /// Begins that, and says whether they are gone.
  void begin_stop(uint32_t grace_ms);
  bool stopped() const;
  std::vector<Child> children() const;
  /// Spares that run.
  uint32_t spares() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// A number for a new process that no earlier one of this node had.
uint64_t new_incarnation();

}  // namespace convoy::actors
