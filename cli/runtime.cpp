#include "cli/runtime.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <csignal>
#include <cstring>
#include <fstream>
#include <sstream>

#include "actors/private_files.hpp"
#include "actors/secret.hpp"
#include "model/error.hpp"
#include "model/parallel.hpp"

namespace convoy::cli {

namespace fs = std::filesystem;

ActorSystemConfig::ActorSystemConfig() {
  set("scheduler.policy",
      caf::atom("sharing"));                    // stealing polls: five times the latency from outside threads
  set("scheduler.max-throughput", size_t{50});  // unlimited, a busy actor starves the others
  set("scheduler.max-threads", std::max<size_t>(4, model::all_cores()));
}

actors::LinkOptions link_options(const actors::ClusterConfig& config) {
  actors::LinkOptions options;
  options.cluster = config.cluster.name;
  options.secret = actors::load_or_create_secret(fs::path(config.cluster.run_dir) / actors::secret_file);
  options.dev = config.cluster.dev;
  options.limits = {config.link, config.pipeline.failure_detection_ms};
  return options;
}

namespace {

sigset_t ending_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  return set;
}

}  // namespace

void block_signals() {
  const sigset_t set = ending_signals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
}

int await_signal() {
  const sigset_t set = ending_signals();
  int signal = 0;
  sigwait(&set, &signal);
  return signal;
}

void write_node_file(const fs::path& run_dir, const std::string& node, const NodeFile& file) {
  const fs::path path = run_dir / (node + ".json"), fresh = run_dir / (node + ".json.new");
  fs::remove(fresh);  // whatever it is, nothing is written through it
  {
    std::ofstream out(fresh);
    out << boost::json::value{{"pid", file.pid},
                              {"link_port", file.link_port},
                              {"gateway_url", file.gateway_url}}
        << "\n";
    if (!out) throw InputError("cannot be written", fresh.string(), "check cluster.run_dir");
  }
  fs::rename(fresh, path);
}

std::optional<NodeFile> read_node_file(const fs::path& run_dir, const std::string& node) {
  std::ifstream in(run_dir / (node + ".json"));
  if (!in) return std::nullopt;
  std::stringstream text;
  text << in.rdbuf();
  boost::json::error_code error;
  const auto value = boost::json::parse(text.str(), error);
  const auto* object = error ? nullptr : value.if_object();
  if (!object || !object->contains("pid")) return std::nullopt;
  return NodeFile{boost::json::value_to<int32_t>(object->at("pid")),
                  boost::json::value_to<uint16_t>(object->at("link_port")),
                  boost::json::value_to<std::string>(object->at("gateway_url"))};
}

NodeLock::NodeLock(const fs::path& run_dir, const std::string& node) {
  const std::string path = (run_dir / (node + ".lock")).string();
  fd_ = actors::open_private(path, O_RDWR | O_CREAT);
  if (fd_ < 0)
    throw InputError(std::string("cannot be opened: ") + std::strerror(errno), path, "check cluster.run_dir");
  if (flock(fd_, LOCK_EX | LOCK_NB) == 0) return;
  close(fd_);
  throw InputError("node " + node + " already runs", path,
                   "end it with `convoy down`, or give this cluster another run_dir");
}

NodeLock::~NodeLock() { close(fd_); }

bool NodeLock::held(const fs::path& run_dir, const std::string& node) {
  const int fd = open((run_dir / (node + ".lock")).c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) return false;
  const bool taken = flock(fd, LOCK_EX | LOCK_NB) != 0;
  close(fd);
  return taken;
}

std::string own_program() { return fs::read_symlink("/proc/self/exe").string(); }

}  // namespace convoy::cli
