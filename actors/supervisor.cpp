#include "actors/supervisor.hpp"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cassert>
#include <chrono>
#include <csignal>
#include <cstring>
#include <map>
#include <mutex>
#include <random>
#include <thread>

#include "actors/log.hpp"
#include "model/error.hpp"

namespace convoy::actors {

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr auto stable = milliseconds(10'000);

std::string how_it_ended(int status) {
  if (WIFSIGNALED(status))
    return std::string("signal ") + std::to_string(WTERMSIG(status)) + " (" + strsignal(WTERMSIG(status)) +
           ")";
  return "exit code " + std::to_string(WEXITSTATUS(status));
}

}  // namespace

uint32_t restart_delay_ms(uint32_t failures) {
  if (failures <= 1) return 0;
  return std::min<uint32_t>(5000, 100u << std::min<uint32_t>(failures - 2, 6));
}

uint64_t new_incarnation() {
  std::random_device random;
  return (uint64_t{random()} << 32 | random()) | 1;
}

int spawn_process(const std::vector<std::string>& command, const std::string& log_file, bool new_session) {
  std::vector<char*> argv;
  for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  if (!log_file.empty()) {
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, log_file.c_str(),
                                     O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW, 0600);
    posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO);
  }
  // Asio's sockets are inherited: a child that held a client's or a link's connection would keep it open.
  posix_spawn_file_actions_addclosefrom_np(&actions, STDERR_FILENO + 1);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setflags(&attributes, static_cast<short>(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
                                                           (new_session ? POSIX_SPAWN_SETSID : 0)));
  pid_t pid = 0;
  const int error = posix_spawnp(&pid, argv[0], &actions, &attributes, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  if (error != 0)
    throw InputError(std::string("cannot be started: ") + std::strerror(error), command.front(), "");
  return pid;
}

void die_with_parent(int32_t parent_pid) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent_pid) _exit(1);
}

struct Supervisor::Impl {
  struct Entry {
    Child child;
    int pidfd = -1;
    uint32_t failures = 0;
    Clock::time_point started{}, next_start{};
  };

  explicit Impl(Command c) : command(std::move(c)), wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    assert(wake >= 0);
    thread = std::thread([this] { loop(); });
  }

  Command command;
  mutable std::mutex mutex;  // guards entries and stopping
  std::map<uint32_t, Entry> entries;
  bool stopping = false;
  Clock::time_point kill_at{};
  int wake;
  std::thread thread;

  void notify() const {
    const uint64_t one = 1;
    [[maybe_unused]] const auto written = write(wake, &one, sizeof one);
  }

  void start(Entry& e) {
    e.child.incarnation = new_incarnation();
    e.started = Clock::now();
    try {
      e.child.pid = spawn_process(command(e.child.instance, e.child.incarnation), "", false);
      e.pidfd = static_cast<int>(syscall(SYS_pidfd_open, e.child.pid, 0));
      log::info("supervisor.started", {{"stage", e.child.instance}, {"pid", e.child.pid}});
    } catch (const std::exception& error) {
      ended(e, error.what());
    }
  }

  void ended(Entry& e, const std::string& how) {
    if (e.pidfd >= 0) close(e.pidfd);
    e.pidfd = -1;
    const bool was_stable = Clock::now() - e.started > stable;
    e.failures = was_stable ? 1 : e.failures + 1;
    e.next_start = Clock::now() + milliseconds(restart_delay_ms(e.failures));
    log::warn("supervisor.ended", {{"stage", e.child.instance}, {"pid", e.child.pid}, {"how", how}});
    e.child.pid = 0;
    e.child.last_end = how;
    ++e.child.restarts;
  }

  /// One round under the lock: starts what is due, reaps what ended. Returns how long nothing is due.
  milliseconds tend(const std::vector<pollfd>& polled) {
    const auto now = Clock::now();
    milliseconds wait(60'000);
    for (auto& [instance, e] : entries) {
      if (e.child.pid != 0) {
        const bool readable = std::any_of(polled.begin(), polled.end(),
                                          [&](const pollfd& p) { return p.fd == e.pidfd && p.revents != 0; });
        int status = 0;
        if (readable && waitpid(e.child.pid, &status, WNOHANG) == e.child.pid)
          ended(e, how_it_ended(status));
        else if (stopping && now >= kill_at)
          kill(e.child.pid, SIGKILL);
      }
      if (e.child.pid == 0 && !stopping) {
        if (now >= e.next_start) start(e);
        if (e.child.pid == 0) wait = std::min(wait, std::chrono::ceil<milliseconds>(e.next_start - now));
      }
    }
    if (stopping) wait = milliseconds(20);
    return std::max(wait, milliseconds(1));
  }

  void loop() {
    std::vector<pollfd> polled;
    for (;;) {
      milliseconds wait{};
      {
        std::lock_guard lock(mutex);
        wait = tend(polled);
        polled.assign(1, {wake, POLLIN, 0});
        bool alive = false;
        for (const auto& [instance, e] : entries) {
          if (e.pidfd >= 0) polled.push_back({e.pidfd, POLLIN, 0});
          alive = alive || e.child.pid != 0;
        }
        if (stopping && !alive) return;
      }
      poll(polled.data(), polled.size(), static_cast<int>(wait.count()));
      uint64_t drained = 0;
      [[maybe_unused]] const auto got = read(wake, &drained, sizeof drained);
    }
  }
};

Supervisor::Supervisor(Command command) : impl_(std::make_unique<Impl>(std::move(command))) {}

Supervisor::~Supervisor() {
  stop();
  close(impl_->wake);
}

void Supervisor::keep(uint32_t instance) {
  {
    std::lock_guard lock(impl_->mutex);
    impl_->entries[instance].child.instance = instance;
  }
  impl_->notify();
}

void Supervisor::replace(uint32_t instance, uint64_t incarnation) {
  std::lock_guard lock(impl_->mutex);
  const auto found = impl_->entries.find(instance);
  if (found == impl_->entries.end() || found->second.child.pid == 0) return;
  if (incarnation != 0 && incarnation != found->second.child.incarnation) return;
  kill(found->second.child.pid, SIGKILL);
}

void Supervisor::stop(uint32_t grace_ms) {
  {
    std::lock_guard lock(impl_->mutex);
    if (!impl_->stopping) {
      impl_->stopping = true;
      impl_->kill_at = Clock::now() + milliseconds(grace_ms);
      // A stopped process takes no SIGTERM; SIGCONT lets it, and SIGKILL follows anyway.
      for (const auto& [instance, e] : impl_->entries)
        if (e.child.pid != 0) kill(e.child.pid, SIGTERM), kill(e.child.pid, SIGCONT);
    }
  }
  impl_->notify();
  if (impl_->thread.joinable()) impl_->thread.join();
}

std::vector<Supervisor::Child> Supervisor::children() const {
  std::lock_guard lock(impl_->mutex);
  std::vector<Child> list;
  for (const auto& [instance, e] : impl_->entries) list.push_back(e.child);
  return list;
}

}  // namespace convoy::actors
