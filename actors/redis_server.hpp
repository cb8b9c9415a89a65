#pragma once
// RedisServer: Convoy's own redis-server, a process in the run directory that keeps nothing on disk and
// listens on a Unix socket alone. Owned by the head node's process, which must outlive nothing of it: the
// server dies with its owner, and is started again when it dies by itself. Never touches another Redis. Any
// thread may call.

#include <sys/types.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <string>
#include <thread>

namespace convoy::actors {

struct RedisServerOptions {
  std::string run_dir;  // exists already; socket, configuration and log go there
  uint64_t memory_bytes_max = 256ull << 20;
  uint32_t start_timeout_ms = 5000;  // from the process's start to its first PONG
  uint32_t stop_timeout_ms = 1000;   // from SIGTERM to SIGKILL
  uint32_t restart_delay_ms = 200;   // after it died, so that a broken one is not started in a tight loop
};

class RedisServer {
 public:
  /// Throws InputError if the socket's path is too long or a program is missing (redis-server, setpriv).
  explicit RedisServer(RedisServerOptions options);
  ~RedisServer();  // stop()
  RedisServer(const RedisServer&) = delete;
  RedisServer& operator=(const RedisServer&) = delete;

  /// Starts the process and returns when it answers. Throws std::runtime_error that names the log if it does
  /// not.
  void start();
  /// Ends the process (SIGTERM, then SIGKILL) and removes its socket. Nothing happens if it does not run.
  void stop();

  /// The process, or 0 while there is none.
  pid_t pid() const { return pid_; }
  /// How often it died by itself and was started again.
  uint64_t restarts() const { return restarts_; }
  const std::string& socket_path() const { return socket_path_; }
  std::string url() const;

 private:
  void supervise();
  void run_once();
  pid_t spawn() const;
  void await_pong(pid_t pid) const;
  void await_exit(pid_t pid);
  void write_configuration() const;

  const RedisServerOptions options_;
  const std::string socket_path_, log_path_;
  std::string server_program_, setpriv_program_;
  std::atomic<pid_t> pid_ = 0;
  std::atomic<uint64_t> restarts_ = 0;
  int stop_event_ = -1;  // eventfd: readable once stop() was called

  std::mutex mutex_;
  std::condition_variable changed_;
  bool started_ = false;        // guarded by mutex_: the first PONG came
  std::exception_ptr problem_;  // guarded by mutex_: why the first start failed
  std::thread supervisor_;
};

}  // namespace convoy::actors
