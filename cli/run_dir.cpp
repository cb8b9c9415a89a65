#include "cli/run_dir.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fstream>
#include <sstream>

#include "actors/process/child_process.hpp"
#include "actors/process/private_files.hpp"
#include "model/error.hpp"
#include "model/scarce.hpp"

namespace convoy::cli {

namespace fs = std::filesystem;
namespace json = boost::json;

namespace {

constexpr uint64_t least_free_bytes = 1 << 20;  // sockets, secrets, logs' first lines

[[noreturn]] void refuse(const std::string& what, const fs::path& where, int error) {
  throw InputError(what + ": " + std::strerror(error), where.string(),
                   mend_of(error, "make it writable for this user, or choose another cluster.run_dir"));
}

struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) close(fd);
  }
};

bool write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(fd, text.data(), text.size());
    if (written < 0 && errno != EINTR) return false;
    if (written > 0) text.remove_prefix(static_cast<size_t>(written));
  }
  return true;
}

/// A write lock on the whole file.
struct flock whole_file() {
  struct flock lock {};
  lock.l_type = F_WRLCK;
  lock.l_whence = SEEK_SET;
  return lock;
}

/// The process whose lock is in the way; -1 if none is.
pid_t pid_of_holder(int fd, const fs::path& file) {
  struct flock lock = whole_file();
  if (fcntl(fd, F_GETLK, &lock) != 0) refuse("its lock cannot be read", file, errno);
  return lock.l_type == F_UNLCK ? -1 : lock.l_pid;
}

std::string process_text(pid_t pid) {
  return pid > 0 ? "pid " + std::to_string(pid) : "a process outside of this container";
}

}  // namespace

void prepare_run_dir(const fs::path& run_dir) {
  actors::make_private_folder(run_dir);
  if (access(run_dir.c_str(), W_OK | X_OK) != 0) refuse("cluster.run_dir cannot be written", run_dir, errno);
  struct statvfs disk {};
  if (statvfs(run_dir.c_str(), &disk) == 0 && disk.f_blocks != 0 &&
      disk.f_bavail * disk.f_frsize < least_free_bytes)
    throw InputError("the disk of cluster.run_dir is full (" + std::to_string(disk.f_bavail * disk.f_frsize) +
                         " bytes are free)",
                     run_dir.string(), "make room there, or choose another cluster.run_dir");
}

ProcessLock::ProcessLock(fs::path file, const std::string& what, uint64_t incarnation)
    : file_(std::move(file)) {
  fd_ = actors::open_private(file_, O_RDWR | O_CREAT);
  if (fd_ < 0) refuse("the lock cannot be opened", file_, errno);
  struct flock lock = whole_file();
  if (fcntl(fd_, F_SETLK, &lock) != 0) {
    const int error = errno;
    const pid_t pid = error == EACCES || error == EAGAIN ? pid_of_holder(fd_, file_) : -1;
    close(fd_);
    if (error != EACCES && error != EAGAIN) refuse("cannot be locked", file_, error);
    throw InputError(what + " already runs" + (pid < 0 ? "" : " (" + process_text(pid) + ")"), file_.string(),
                     "end it with `convoy down`, or give this cluster another run_dir");
  }
  // Over what an earlier process wrote, whose room is there even on a full disk.
  const std::string text = std::to_string(getpid()) + " " + std::to_string(incarnation) + "\n";
  if (!write_all(fd_, text) || ftruncate(fd_, static_cast<off_t>(text.size())) != 0) {
    const int error = errno;
    close(fd_);
    refuse("the lock cannot be written", file_, error);
  }
}

ProcessLock::~ProcessLock() { close(fd_); }

bool ProcessLock::still_there() const {
  struct stat named {
  }, held{};
  if (fstat(fd_, &held) != 0) return true;  // then nothing is known
  if (lstat(file_.c_str(), &named) != 0) return errno != ENOENT && errno != ENOTDIR;
  return named.st_dev == held.st_dev && named.st_ino == held.st_ino;
}

std::optional<Holder> ProcessLock::holder(const fs::path& file) {
  const Descriptor opened{actors::open_private(file, O_RDONLY)};
  if (opened.fd < 0) {
    if (errno == ENOENT || errno == ENOTDIR) return std::nullopt;
    throw InputError(std::string("the lock cannot be read: ") + std::strerror(errno), file.string(),
                     mend_of(errno, "use the user that runs the cluster"));
  }
  const pid_t pid = pid_of_holder(opened.fd, file);
  if (pid < 0) return std::nullopt;
  char text[64] = {};
  if (read(opened.fd, text, sizeof text - 1) < 0) refuse("the lock cannot be read", file, errno);
  Holder holder{pid, 0};
  std::istringstream in(text);
  pid_t writer = 0;
  uint64_t incarnation = 0;
  char end = 0;
  if (in >> writer >> incarnation && in.get(end) && end == '\n' && writer == pid)
    holder.incarnation = incarnation;
  return holder;
}

bool ProcessLock::signal_holder(const fs::path& file, const Holder& holder, int signal) {
  if (holder.pid <= 0) return false;
  // A pidfd stays with its process, so that who is asked now is who is signalled.
  const Descriptor process{actors::open_pidfd(holder.pid)};
  const auto now = ProcessLock::holder(file);
  if (!now || now->pid != holder.pid) return false;
  if (process.fd < 0) return kill(holder.pid, signal) == 0;
  return syscall(SYS_pidfd_send_signal, process.fd, signal, nullptr, 0) == 0;
}

fs::path node_lock_file(const fs::path& run_dir, const std::string& node) {
  return run_dir / (node + ".lock");
}

fs::path head_lock_file(const fs::path& run_dir) { return node_lock_file(run_dir, head_entry); }

std::string gateway_entry(const std::string& node) { return ".gateway-" + node; }

fs::path gateway_lock_file(const fs::path& run_dir, const std::string& node) {
  return node_lock_file(run_dir, gateway_entry(node));
}

fs::path start_lock_file(const fs::path& run_dir) { return run_dir / ".up.lock"; }

void write_node_file(const fs::path& run_dir, const std::string& node, const NodeFile& file) {
  json::array crashing;
  for (const auto& c : file.crashing)
    crashing.push_back({{"stage", c.instance}, {"crashes", c.crashes}, {"last_end", c.last_end}});
  const json::object object{
      {"incarnation", file.incarnation},         {"link_port", file.link_port},
      {"gateway_url", file.gateway_url},         {"crashing", crashing},
      {"gateway_crashes", file.gateway_crashes}, {"gateway_last_end", file.gateway_last_end}};
  const fs::path path = run_dir / (node + ".json"), fresh = run_dir / (node + ".json.new");
  {
    const Descriptor out{open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600)};
    if (out.fd < 0 || !write_all(out.fd, json::serialize(object) + "\n"))
      refuse("the node's file cannot be written", fresh, errno);
  }
  if (rename(fresh.c_str(), path.c_str()) != 0) refuse("the node's file cannot be written", path, errno);
}

void remove_node_file(const fs::path& run_dir, const std::string& node) {
  std::error_code ignored;  // usually the folder is there, and if not, neither is the file
  fs::remove(run_dir / (node + ".json"), ignored);
}

std::optional<NodeFile> read_node_file(const fs::path& run_dir, const std::string& node,
                                       const Holder& holder) {
  std::ifstream in(run_dir / (node + ".json"));
  if (!in || holder.incarnation == 0) return std::nullopt;
  std::stringstream text;
  text << in.rdbuf();
  NodeFile file;
  try {
    const auto object = json::parse(text.str()).as_object();
    file.incarnation = json::value_to<uint64_t>(object.at("incarnation"));
    file.link_port = json::value_to<uint16_t>(object.at("link_port"));
    file.gateway_url = json::value_to<std::string>(object.at("gateway_url"));
    for (const auto& c : object.at("crashing").as_array())
      file.crashing.push_back({json::value_to<uint32_t>(c.at("stage")),
                               json::value_to<uint32_t>(c.at("crashes")),
                               json::value_to<std::string>(c.at("last_end"))});
    file.gateway_crashes = json::value_to<uint32_t>(object.at("gateway_crashes"));
    file.gateway_last_end = json::value_to<std::string>(object.at("gateway_last_end"));
  } catch (const std::exception&) {
    return std::nullopt;  // of another version, or somebody edited it: as if it were not there
  }
  if (file.incarnation != holder.incarnation) return std::nullopt;
  return file;
}

}  // namespace convoy::cli
