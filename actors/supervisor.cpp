#include "actors/supervisor.hpp"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <map>
#include <mutex>
#include <random>
#include <system_error>
#include <thread>

#include "actors/process/log.hpp"

namespace convoy::actors {

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr auto ask_again = milliseconds(50);  // after a child that has no pidfd

}  // namespace

milliseconds restart_wait(uint32_t failures, milliseconds lived) {
  if (failures <= 1) return {};
  const milliseconds apart(100u << std::min<uint32_t>(failures - 2, 5));
  return std::max(milliseconds(0), apart - lived);
}

uint32_t failures_in_a_row(uint32_t before, milliseconds lived, uint32_t stable_ms) {
  return lived > milliseconds(stable_ms) ? 1 : before + 1;
}

uint64_t new_incarnation() {
  std::random_device random;
  return (uint64_t{random()} << 32 | random()) | 1;
}

struct Supervisor::Impl {
  struct Entry {
    Child child;
    int pidfd = -1;
    bool replaced = false;  // we killed it
    bool kept = true;       // else it is forgotten once it has ended
    Clock::time_point started{}, next_start{};
  };

  explicit Impl(Options o) : options(std::move(o)), wake(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    if (wake < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
    thread = std::thread([this] { loop(); });
  }

  /// A process that waits for a place.
  struct Spare {
    pid_t pid = 0;
    int pidfd = -1;
    int input = -1;  // ours of the two ends
    Clock::time_point started{};
  };

  const Options options;
  mutable std::mutex mutex;  // guards all that follows, but `wake`, `over` and `thread`
  std::map<uint32_t, Entry> entries;
  std::vector<Spare> spares;
  uint32_t spare_failures = 0;  // in a row
  Clock::time_point next_spare{};
  bool stopping = false;
  Clock::time_point kill_at{};
  int wake;
  std::atomic<bool> over = false;  // all have ended
  std::thread thread;

  void notify() const {
    const uint64_t one = 1;
    [[maybe_unused]] const auto written = write(wake, &one, sizeof one);
  }

  void start(Entry& e) {
    e.child.incarnation = new_incarnation();
    e.started = Clock::now();
    e.replaced = false;
    next_spare = std::max(next_spare, e.started + milliseconds(options.spare_after_ms));
    if (take_spare(e)) return;
    try {
      e.child.pid = spawn_process(options.program(e.child.instance, e.child.incarnation));
      e.pidfd = open_pidfd(e.child.pid);
      log::info("supervisor.started", {{options.kind, e.child.instance}, {"pid", e.child.pid}});
    } catch (const std::exception& error) {
      ended(e, error.what(), std::nullopt);
    }
  }

  /// The oldest that still runs takes the child's place.
  bool take_spare(Entry& e) {
    while (!spares.empty()) {
      const Spare spare = spares.front();
      spares.erase(spares.begin());
      const std::string place =
          std::to_string(e.child.instance) + " " + std::to_string(e.child.incarnation) + "\n";
      const bool told =
          send(spare.input, place.data(), place.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(place.size());
      close(spare.input);
      if (told) {
        e.child.pid = spare.pid;
        e.pidfd = spare.pidfd;
        log::info("supervisor.spare_used", {{options.kind, e.child.instance}, {"pid", spare.pid}});
        return true;
      }
      forget(spare);
    }
    return false;
  }

  void start_spare() {
    int ends[2];  // of sockets, for MSG_NOSIGNAL
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
      return spare_ended(std::strerror(errno), {});
    try {
      Program program = options.spare();
      program.input = ends[1];
      const pid_t pid = spawn_process(program);
      spares.push_back({pid, open_pidfd(pid), ends[0], Clock::now()});
      log::info("supervisor.spare", {{"of", options.kind}, {"pid", pid}});
    } catch (const std::exception& error) {
      close(ends[0]);
      spare_ended(error.what(), {});
    }
    close(ends[1]);
  }

  void spare_ended(const std::string& how, milliseconds lived) {
    spare_failures = failures_in_a_row(spare_failures, lived, options.stable_ms);
    next_spare = Clock::now() + restart_wait(spare_failures + 1, lived);
    log::warn("supervisor.spare_ended", {{"of", options.kind}, {"how", how}});
  }

  /// Ends it, and waits until it has.
  void forget(const Spare& spare) {
    kill(spare.pid, SIGKILL);
    waitpid(spare.pid, nullptr, 0);
    if (spare.pidfd >= 0) close(spare.pidfd);
  }

  /// Reaps those that ended, and starts what is missing, but never before a child. Returns how long nothing
  /// is due.
  milliseconds tend_spares(Clock::time_point now) {
    for (size_t i = spares.size(); i-- > 0;) {
      int status = 0;
      if (!stopping && waitpid(spares[i].pid, &status, WNOHANG) != spares[i].pid) continue;
      const Spare spare = spares[i];
      spares.erase(spares.begin() + static_cast<ptrdiff_t>(i));
      close(spare.input);
      if (stopping) {
        forget(spare);
        continue;
      }
      if (spare.pidfd >= 0) close(spare.pidfd);
      spare_ended(how_it_ended(status), std::chrono::duration_cast<milliseconds>(now - spare.started));
    }
    const bool complete = std::ranges::all_of(entries, [](const auto& e) { return e.second.child.pid != 0; });
    if (stopping || !complete || entries.empty() || spares.size() >= options.spares)
      return milliseconds(60'000);
    if (now < next_spare) return std::chrono::ceil<milliseconds>(next_spare - now);
    start_spare();
    return milliseconds(1);
  }

  void ended(Entry& e, const std::string& how, std::optional<int> exit_code) {
    if (e.pidfd >= 0) close(e.pidfd);
    e.pidfd = -1;
    const auto lived = std::chrono::duration_cast<milliseconds>(Clock::now() - e.started);
    e.child.failures = failures_in_a_row(e.child.failures, lived, options.stable_ms);
    e.next_start = Clock::now() + restart_wait(e.child.failures, lived);
    if (!stopping)
      log::warn("supervisor.ended", {{options.kind, e.child.instance}, {"pid", e.child.pid}, {"how", how}});
    e.child.pid = 0;
    e.child.last_end = how;
    e.child.exit_code = exit_code;
    ++e.child.restarts;
    if (!e.replaced && !stopping) ++e.child.crashes;
    e.child.over = options.again && !options.again(e.child);
    ends.push_back(e.child);
  }

  /// One round under the lock: starts what is due, reaps what ended. Returns how long nothing is due.
  milliseconds tend() {
    const auto now = Clock::now();
    milliseconds wait(60'000);
    for (auto& [instance, e] : entries) {
      if (e.child.pid != 0) {
        int status = 0;
        if (waitpid(e.child.pid, &status, WNOHANG) == e.child.pid)
          ended(e, how_it_ended(status),
                WIFEXITED(status) ? std::optional(WEXITSTATUS(status)) : std::nullopt);
        else if (stopping && now >= kill_at)
          kill(e.child.pid, SIGKILL);
      }
      if (e.child.pid == 0 && !stopping && !e.child.over && e.kept) {
        // A spare costs no start, and there is not one again so soon that this could spin.
        if (now >= e.next_start || !spares.empty()) start(e);
        if (e.child.pid == 0) wait = std::min(wait, std::chrono::ceil<milliseconds>(e.next_start - now));
      }
      if (e.child.pid != 0 && e.pidfd < 0) wait = std::min(wait, ask_again);
    }
    std::erase_if(entries,
                  [](const auto& entry) { return entry.second.child.pid == 0 && !entry.second.kept; });
    wait = std::min(wait, tend_spares(now));
    if (std::ranges::any_of(spares, [](const Spare& s) { return s.pidfd < 0; }))
      wait = std::min(wait, ask_again);
    if (stopping) wait = milliseconds(20);
    return std::max(wait, milliseconds(1));
  }

  void loop() {
    std::vector<pollfd> polled;
    for (;;) {
      milliseconds wait{};
      std::vector<Child> told;
      bool alive = false;
      {
        std::lock_guard lock(mutex);
        wait = tend();
        polled.assign(1, {wake, POLLIN, 0});
        for (const auto& [instance, e] : entries) {
          if (e.pidfd >= 0) polled.push_back({e.pidfd, POLLIN, 0});
          alive = alive || e.child.pid != 0;
        }
        for (const Spare& spare : spares)
          if (spare.pidfd >= 0) polled.push_back({spare.pidfd, POLLIN, 0});
        alive = alive || !stopping;
        told.swap(ends);
      }
      if (options.ended)
        for (const Child& child : told) options.ended(child);  // not under the lock: it may ask us
      if (!alive) return void(over = true);
      poll(polled.data(), polled.size(), static_cast<int>(wait.count()));
      uint64_t drained = 0;
      [[maybe_unused]] const auto got = read(wake, &drained, sizeof drained);
    }
  }

  std::vector<Child> ends;  // guarded by mutex; not yet told
};

Supervisor::Supervisor(Options options) : impl_(std::make_unique<Impl>(std::move(options))) {}

Supervisor::~Supervisor() {
  stop();
  close(impl_->wake);
}

void Supervisor::keep(uint32_t instance) {
  {
    std::lock_guard lock(impl_->mutex);
    Impl::Entry& e = impl_->entries[instance];
    e.child.instance = instance;
    e.kept = true;
  }
  impl_->notify();
}

void Supervisor::release(uint32_t instance) {
  {
    std::lock_guard lock(impl_->mutex);
    const auto found = impl_->entries.find(instance);
    if (found == impl_->entries.end()) return;
    found->second.kept = false;
    found->second.replaced = true;
    if (found->second.child.pid != 0) kill(found->second.child.pid, SIGKILL);
  }
  impl_->notify();
}

void Supervisor::replace(uint32_t instance, uint64_t incarnation) {
  std::lock_guard lock(impl_->mutex);
  const auto found = impl_->entries.find(instance);
  if (found == impl_->entries.end() || found->second.child.pid == 0) return;
  if (incarnation != 0 && incarnation != found->second.child.incarnation) return;
  found->second.replaced = true;
  kill(found->second.child.pid, SIGKILL);
}

void Supervisor::signal(int number) {
  std::lock_guard lock(impl_->mutex);
  for (const auto& [instance, e] : impl_->entries)
    if (e.child.pid != 0) kill(e.child.pid, number);
}

void Supervisor::begin_stop(uint32_t grace_ms) {
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
}

bool Supervisor::stopped() const { return impl_->over; }

void Supervisor::stop(uint32_t grace_ms) {
  begin_stop(grace_ms);
  if (impl_->thread.joinable()) impl_->thread.join();
}

std::vector<Supervisor::Child> Supervisor::children() const {
  std::lock_guard lock(impl_->mutex);
  std::vector<Child> list;
  for (const auto& [instance, e] : impl_->entries) list.push_back(e.child);
  return list;
}

uint32_t Supervisor::spares() const {
  std::lock_guard lock(impl_->mutex);
  return static_cast<uint32_t>(impl_->spares.size());
}

}  // namespace convoy::actors
