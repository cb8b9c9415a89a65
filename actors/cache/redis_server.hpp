#pragma once
// RedisServer: Convoy's own redis-server, a process in the run directory that keeps nothing on disk and
// listens on a Unix socket alone. Owned by the head node's process, which nothing of it may outlive: the
// server dies with its owner, and is started again when it dies by itself. Never touches another Redis. One
// thread starts and stops; any thread may ask in between.

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>

#include "actors/supervisor.hpp"

namespace convoy::actors {

struct RedisServerOptions {
  std::string run_dir;  // exists already; socket, configuration and log go there
  uint64_t memory_bytes_max = 256ull << 20;
  uint32_t start_timeout_ms = 5000;  // from the process's start to its first PONG
  uint32_t stop_timeout_ms = 1000;   // from SIGTERM to SIGKILL
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
  pid_t pid() const;
  /// How often it died by itself and was started again.
  uint64_t restarts() const;
  const std::string& socket_path() const { return socket_path_; }
  std::string url() const;

 private:
  Program program() const;
  std::string why_not_started() const;
  void write_configuration() const;
  void remove_socket() const;

  const RedisServerOptions options_;
  const std::string socket_path_, log_path_;
  std::string server_program_, setpriv_program_;
  int log_ = -1;                            // while it is started
  std::unique_ptr<Supervisor> supervisor_;  // while it is started
};

}  // namespace convoy::actors
