#include "actors/cache/redis_server.hpp"

#include <fcntl.h>
#include <hiredis/hiredis.h>
#include <unistd.h>

#include <cassert>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <thread>
#include <vector>

#include "actors/cache/redis_client.hpp"
#include "actors/process/log.hpp"
#include "model/error.hpp"
#include "model/scarce.hpp"

namespace convoy::actors {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

/// Beside our own program, where a bundle has it (scripts/bundle), or in PATH.
std::string find_program(const std::string& name, const std::string& package) {
  std::error_code unknown;  // without /proc there is PATH
  std::vector<fs::path> folders{fs::read_symlink("/proc/self/exe", unknown).parent_path()};
  const char* path = std::getenv("PATH");
  std::istringstream listed(path ? path : "/usr/bin:/bin");
  for (std::string folder; std::getline(listed, folder, ':');) folders.emplace_back(folder);
  for (const fs::path& folder : folders) {
    const fs::path program = folder / name;
    if (!folder.empty() && ::access(program.c_str(), X_OK) == 0) return program;
  }
  throw InputError("the program is not installed", name,
                   "install the package " + package + ", or set redis.url");
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
  assert(!supervisor_);
  write_configuration();
  log_ = ::open(log_path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (log_ < 0)
    throw InputError(std::string("the log cannot be opened: ") + std::strerror(errno), log_path_,
                     mend_of(errno, "make it and its folder writable for this user"));
  Supervisor::Options options;
  options.kind = "redis";
  options.program = [this](uint32_t, uint64_t) { return program(); };
  supervisor_ = std::make_unique<Supervisor>(std::move(options));
  supervisor_->keep(0);
  if (const std::string problem = why_not_started(); !problem.empty()) {
    stop();
    throw std::runtime_error(problem + "; its log is " + log_path_);
  }
  log::info("redis.started", {{"pid", pid()}, {"socket", socket_path_}});
}

/// Waits for its first PONG; empty if that came.
std::string RedisServer::why_not_started() const {
  constexpr auto ask_again = std::chrono::milliseconds(10);
  const auto give_up = Clock::now() + std::chrono::milliseconds(options_.start_timeout_ms);
  while (!answers_ping(socket_path_)) {
    const auto children = supervisor_->children();
    if (children[0].restarts > 0) return "redis-server ended while it started (" + children[0].last_end + ")";
    if (Clock::now() > give_up)
      return "redis-server did not answer within " + std::to_string(options_.start_timeout_ms) + " ms";
    std::this_thread::sleep_for(ask_again);
  }
  return {};
}

void RedisServer::stop() {
  if (!supervisor_) return;
  supervisor_->stop(options_.stop_timeout_ms);
  supervisor_.reset();
  ::close(log_);
  remove_socket();
}

pid_t RedisServer::pid() const { return supervisor_ ? supervisor_->children()[0].pid : 0; }

uint64_t RedisServer::restarts() const { return supervisor_ ? supervisor_->children()[0].restarts : 0; }

void RedisServer::remove_socket() const {
  std::error_code ignored;  // it is gone already if Redis ended well
  fs::remove(socket_path_, ignored);
}

Program RedisServer::program() const {
  remove_socket();
  Program program;
  program.argv = {setpriv_program_, "--pdeathsig", "KILL", "--", server_program_, "./redis.conf"};
  program.folder = fs::absolute(options_.run_dir);
  program.output = log_;  // until it has read its configuration
  // Its own process group: Ctrl-C at the terminal ends the node, and the node ends Redis after its last use.
  program.group = Program::Group::own;
  return program;
}

void RedisServer::write_configuration() const {
  const fs::path path = fs::path(options_.run_dir) / "redis.conf";
  std::ostringstream text;
  // The process runs in the run directory, so that no path here needs quoting.
  text << "# Written by Convoy at every start.\n"
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
  std::ostringstream there;
  if (there << std::ifstream(path).rdbuf() && there.str() == text.str())
    return;  // a full disk has it already
  std::ofstream file(path, std::ios::trunc);
  file << text.str();
  file.close();
  if (!file)
    throw InputError(std::string("the file cannot be written: ") + std::strerror(errno), path,
                     mend_of(errno, "make its folder writable for this user"));
}

}  // namespace convoy::actors
