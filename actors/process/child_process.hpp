#pragma once
// Starting processes: nodes (by `convoy up`), stages and Redis (by a Supervisor). Functions for any thread; a
// child belongs to whoever started it, who reaps it.

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

namespace convoy::actors {

/// What to run, and how it starts. It gets a fresh signal mask, and no descriptor of ours but its input and
/// output.
struct Program {
  std::vector<std::string> argv;
  std::string path;    // the file to run; empty: argv[0], looked up in PATH
  std::string folder;  // to run in; empty: ours
  int input = -1;      // its standard input; -1: /dev/null
  int output = -1;     // its standard output and error; -1: ours
  enum class Group { ours, own, own_session } group = Group::ours;
};

/// The program that runs now, with these arguments, whatever has become of its file since: replaced by a
/// newer one or deleted, a stage that is started again is still of the version of its node.
Program own_program(const std::vector<std::string>& arguments);

/// With posix_spawn (never fork: threads may run). Throws InputError naming the program.
pid_t spawn_process(const Program& program);

/// A descriptor that gets readable when that process ends; -1 where there is none (an old kernel, a sandbox,
/// no descriptor left): then one has to ask again and again.
int open_pidfd(pid_t pid);

/// What a process of this machine does, as far as it can be told.
enum class ProcessState : uint8_t { unknown, stopped, runs };
/// unknown: there is none, or it was not started with that word.
ProcessState process_state(int32_t pid, const std::string& word);

/// "exit code 3" or "signal 9 (Killed)", of a status of waitpid.
std::string how_it_ended(int status);

/// For a child's main(): ask the kernel for SIGKILL when the thread that started it ends. Exits if that
/// thread's process is gone already.
void die_with_parent(int32_t parent_pid);

}  // namespace convoy::actors
