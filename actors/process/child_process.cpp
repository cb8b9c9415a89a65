#include "actors/process/child_process.hpp"

#include <fcntl.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstring>
#include <fstream>

#include "model/error.hpp"
#include "model/scarce.hpp"

namespace convoy::actors {

namespace {

constexpr const char* running_file = "/proc/self/exe";  // a started child's, too, until it runs its own

/// posix_spawn's two lists, with every error named.
class SpawnPlan {
 public:
  explicit SpawnPlan(const Program& program) : program_(program) {
    require(posix_spawn_file_actions_init(&actions_));
    require(posix_spawnattr_init(&attributes_));
    if (!program.folder.empty())
      require(posix_spawn_file_actions_addchdir_np(&actions_, program.folder.c_str()));
    if (program.input >= 0)
      require(posix_spawn_file_actions_adddup2(&actions_, program.input, STDIN_FILENO));
    else
      require(posix_spawn_file_actions_addopen(&actions_, STDIN_FILENO, "/dev/null", O_RDONLY, 0));
    if (program.output >= 0)
      for (const int fd : {STDOUT_FILENO, STDERR_FILENO})
        require(posix_spawn_file_actions_adddup2(&actions_, program.output, fd));
    // Asio's sockets are inherited: a child that held a client's or a link's connection would keep it open.
    require(posix_spawn_file_actions_addclosefrom_np(&actions_, STDERR_FILENO + 1));
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    require(posix_spawnattr_setsigmask(&attributes_, &none));
    require(posix_spawnattr_setsigdefault(&attributes_, &all));
    require(posix_spawnattr_setpgroup(&attributes_, 0));
    int flags = POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF;
    if (program.group == Program::Group::own) flags |= POSIX_SPAWN_SETPGROUP;
    if (program.group == Program::Group::own_session) flags |= POSIX_SPAWN_SETSID;
    require(posix_spawnattr_setflags(&attributes_, static_cast<short>(flags)));
  }
  ~SpawnPlan() {
    posix_spawnattr_destroy(&attributes_);
    posix_spawn_file_actions_destroy(&actions_);
  }
  SpawnPlan(const SpawnPlan&) = delete;
  SpawnPlan& operator=(const SpawnPlan&) = delete;

  pid_t run() const {
    std::vector<char*> argv;
    for (const std::string& word : program_.argv) argv.push_back(const_cast<char*>(word.c_str()));
    argv.push_back(nullptr);
    pid_t pid = 0;
    require(program_.path.empty()
                ? posix_spawnp(&pid, argv[0], &actions_, &attributes_, argv.data(), environ)
                : posix_spawn(&pid, program_.path.c_str(), &actions_, &attributes_, argv.data(), environ));
    return pid;
  }

 private:
  void require(int error) const {
    if (error != 0)
      throw InputError(std::string("cannot be started: ") + std::strerror(error), program_.argv.front(),
                       mend_of(error, ""));
  }

  const Program& program_;
  posix_spawn_file_actions_t actions_;
  posix_spawnattr_t attributes_;
};

}  // namespace

Program own_program(const std::vector<std::string>& arguments) {
  std::array<char, 4096> file{};
  const ssize_t size = readlink(running_file, file.data(), file.size());
  std::string name(file.data(), size < 0 ? 0 : static_cast<size_t>(size));
  constexpr std::string_view deleted = " (deleted)";
  if (name.ends_with(deleted)) name.resize(name.size() - deleted.size());
  Program program;
  program.path = running_file;
  program.argv.push_back(name.empty() ? "convoy" : name);  // what `ps` shows
  program.argv.insert(program.argv.end(), arguments.begin(), arguments.end());
  return program;
}

pid_t spawn_process(const Program& program) { return SpawnPlan(program).run(); }

int open_pidfd(pid_t pid) { return static_cast<int>(syscall(SYS_pidfd_open, pid, 0)); }

ProcessState process_state(int32_t pid, const std::string& word) {
  const std::string folder = "/proc/" + std::to_string(pid);
  std::ifstream command(folder + "/cmdline");
  bool ours = false;
  for (std::string argument; !ours && std::getline(command, argument, '\0');) ours = argument == word;
  if (!ours) return ProcessState::unknown;
  std::string stat;
  std::getline(std::ifstream(folder + "/stat"), stat);
  const size_t name_end = stat.rfind(')');  // proc(5): the state is behind the name
  if (name_end == stat.npos || name_end + 2 >= stat.size()) return ProcessState::unknown;
  switch (stat[name_end + 2]) {
    case 'T':
    case 't':
      return ProcessState::stopped;
    case 'Z':
    case 'X':
      return ProcessState::unknown;
    default:
      return ProcessState::runs;
  }
}

std::string how_it_ended(int status) {
  if (WIFSIGNALED(status)) {
    const int signal = WTERMSIG(status);
    // Of ours, only the model is read so; who starts next finds out what is wrong with it.
    const char* const why = signal == SIGBUS ? ": a mapped file was shortened, or its disk failed" : "";
    return "signal " + std::to_string(signal) + " (" + strsignal(signal) + why + ")";
  }
  return "exit code " + std::to_string(WEXITSTATUS(status));
}

void die_with_parent(int32_t parent_pid) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent_pid) _exit(1);
}

}  // namespace convoy::actors
