#include "actors/redis_server.hpp"

#include <fcntl.h>
#include <hiredis/hiredis.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

extern "C" {  // glibc 2.36's header forgets that
#include <sys/pidfd.h>
}

#include <cassert>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <stdexcept>

#include "actors/log.hpp"
#include "actors/redis_client.hpp"
#include "model/error.hpp"

namespace convoy::actors {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

std::string find_program(const std::string& name, const std::string& package) {
  const char* path = std::getenv("PATH");
  std::istringstream folders(path ? path : "/usr/bin:/bin");
  for (std::string folder; std::getline(folders, folder, ':');) {
    const fs::path program = fs::path(folder) / name;
    if (!folder.empty() && ::access(program.c_str(), X_OK) == 0) return program;
  }
  throw InputError("the program is not installed", name,
                   "install the package " + package + ", or set redis.url");
}

void require(int error, const char* what) {
  if (error != 0) throw std::runtime_error(std::string(what) + ": " + std::strerror(error));
}

/// True if the event became readable within timeout_ms.
bool readable(int fd, int timeout_ms) {
  pollfd event{fd, POLLIN, 0};
  return ::poll(&event, 1, timeout_ms) > 0;
}

bool answers_ping(const std::string& socket_path) {
  const timeval timeout{0, 100'000};
  const std::unique_ptr<redisContext, decltype(&redisFree)> redis(
      redisConnectUnixWithTimeout(socket_path.c_str(), timeout), &redisFree);
  if (!redis || redis->err != 0 || redisSetTimeout(redis.get(), timeout) != REDIS_OK) return false;
  const std::unique_ptr<void, decltype(&freeReplyObject)> reply(redisCommand(redis.get(), "PING"),
                                                                &freeReplyObject);
  return reply && static_cast<redisReply*>(reply.get())->type == REDIS_REPLY_STATUS;
}

}  // namespace

RedisServer::RedisServer(RedisServerOptions options)
    : options_(std::move(options)),
      socket_path_(fs::absolute(options_.run_dir) / "redis.sock"),
      log_path_(fs::absolute(options_.run_dir) / "redis.log"),
      server_program_(find_program("redis-server", "redis-server")),
      setpriv_program_(find_program("setpriv", "util-linux")) {
  unix_redis_url(socket_path_);  // refuses a path that is too long
}

RedisServer::~RedisServer() { stop(); }

std::string RedisServer::url() const { return unix_redis_url(socket_path_); }

void RedisServer::start() {
  assert(!supervisor_.joinable());
  write_configuration();
  stop_event_ = ::eventfd(0, EFD_CLOEXEC);
  if (stop_event_ < 0) require(errno, "eventfd");
  started_ = false;
  problem_ = nullptr;
  // A thread of its own starts and watches the process: the kernel ends the process with the thread that
  // started it.
  supervisor_ = std::thread([this] { supervise(); });
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return started_ || problem_; });
  if (!problem_) return;
  lock.unlock();
  stop();
  std::rethrow_exception(problem_);
}

void RedisServer::stop() {
  if (!supervisor_.joinable()) return;
  const uint64_t one = 1;
  if (::write(stop_event_, &one, sizeof one) != sizeof one) std::abort();  // cannot fail on a fresh eventfd
  supervisor_.join();
  ::close(stop_event_);
  stop_event_ = -1;
}

void RedisServer::supervise() {
  for (;;) {
    try {
      run_once();
    } catch (const std::exception& error) {
      const std::lock_guard lock(mutex_);
      if (!started_) {
        problem_ = std::current_exception();
        changed_.notify_all();
        return;
      }
      log::error("redis.restart_failed", {{"reason", error.what()}});
    }
    if (readable(stop_event_, static_cast<int>(options_.restart_delay_ms))) return;
    ++restarts_;
  }
}

/// One life of the process, until it dies or stop() is called.
void RedisServer::run_once() {
  std::error_code ignored;  // usually there is none
  fs::remove(socket_path_, ignored);
  const pid_t pid = spawn();
  pid_ = pid;
  try {
    await_pong(pid);
  } catch (...) {
    ::kill(pid, SIGKILL);
    await_exit(pid);
    throw;
  }
  log::info("redis.started", {{"pid", pid}, {"socket", socket_path_}});
  {
    const std::lock_guard lock(mutex_);
    started_ = true;
    changed_.notify_all();
  }
  await_exit(pid);
}

void RedisServer::write_configuration() const {
  const fs::path path = fs::path(options_.run_dir) / "redis.conf";
  std::ofstream file(path, std::ios::trunc);
  // The process runs in the run directory, so that no path here needs quoting.
  file << "# Written by Convoy at every start.\n"
          "port 0\n"
          "unixsocket redis.sock\n"
          "unixsocketperm 700\n"
          "daemonize no\n"
          "logfile redis.log\n"
          "databases 1\n"
          "save \"\"\n"
          "appendonly no\n"
          "maxmemory "
       << options_.memory_bytes_max
       << "\n"
          "maxmemory-policy allkeys-lru\n";
  file.close();
  if (!file)
    throw InputError(std::string("the file cannot be written: ") + std::strerror(errno), path,
                     "make its folder writable for this user");
}

pid_t RedisServer::spawn() const {
  const std::string folder = fs::absolute(options_.run_dir);
  posix_spawn_file_actions_t files;
  posix_spawnattr_t attributes;
  require(posix_spawn_file_actions_init(&files), "posix_spawn_file_actions_init");
  require(posix_spawnattr_init(&attributes), "posix_spawnattr_init");
  require(posix_spawn_file_actions_addchdir_np(&files, folder.c_str()), "chdir");
  require(posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0), "stdin");
  require(posix_spawn_file_actions_addopen(&files, 1, "redis.log", O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW,
                                           0600),
          "stdout");
  require(posix_spawn_file_actions_adddup2(&files, 1, 2), "stderr");
  require(posix_spawn_file_actions_addclosefrom_np(&files, 3), "closefrom");
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  require(posix_spawnattr_setsigmask(&attributes, &none), "sigmask");
  require(posix_spawnattr_setsigdefault(&attributes, &all), "sigdefault");
  // Its own process group: Ctrl-C at the terminal ends the node, and the node ends Redis after its last use.
  require(posix_spawnattr_setpgroup(&attributes, 0), "pgroup");
  require(posix_spawnattr_setflags(&attributes,
                                   POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP),
          "flags");
  const char* arguments[] = {setpriv_program_.c_str(), "--pdeathsig",  "KILL", "--",
                             server_program_.c_str(),  "./redis.conf", nullptr};
  pid_t pid = 0;
  const int error = ::posix_spawn(&pid, setpriv_program_.c_str(), &files, &attributes,
                                  const_cast<char* const*>(arguments), environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&files);
  require(error, "redis-server cannot be started");
  return pid;
}

void RedisServer::await_pong(pid_t pid) const {
  constexpr int poll_ms = 10;
  const auto give_up = Clock::now() + std::chrono::milliseconds(options_.start_timeout_ms);
  while (!answers_ping(socket_path_)) {
    siginfo_t status{};
    if (::waitid(P_PID, static_cast<id_t>(pid), &status, WEXITED | WNOHANG | WNOWAIT) == 0 &&
        status.si_pid == pid)
      throw std::runtime_error("redis-server ended while it started; its log is " + log_path_);
    if (Clock::now() > give_up)
      throw std::runtime_error("redis-server did not answer within " +
                               std::to_string(options_.start_timeout_ms) + " ms; its log is " + log_path_);
    if (readable(stop_event_, poll_ms)) throw std::runtime_error("stopped while redis-server started");
  }
}

/// Waits for the end of the process, or makes it once stop() was called; reaps it and removes what it left.
void RedisServer::await_exit(pid_t pid) {
  const int process = ::pidfd_open(pid, 0);
  if (process < 0) require(errno, "pidfd_open");
  pollfd events[] = {{process, POLLIN, 0}, {stop_event_, POLLIN, 0}};
  while (::poll(events, 2, -1) < 0) assert(errno == EINTR);
  const bool died = events[0].revents != 0;
  if (!died) {
    ::kill(pid, SIGTERM);
    if (!readable(process, static_cast<int>(options_.stop_timeout_ms))) ::kill(pid, SIGKILL);
  }
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  ::close(process);
  pid_ = 0;
  std::error_code ignored;  // it is gone already if Redis ended well
  fs::remove(socket_path_, ignored);
  if (died) log::warn("redis.died", {{"pid", pid}, {"status", status}});
}

}  // namespace convoy::actors
