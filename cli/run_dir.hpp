#pragma once
// The run directory: what processes of a cluster leave there for the commands that come after them, and who
// is alive. A process is alive as long as the kernel holds its lock; what a file says counts only beside
// that. Called by every command, on its main thread.

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace convoy::cli {

/// Makes the run directory, or checks the one that is there. Throws InputError if it cannot be used: not
/// writable, its disk full, another user's, or writable for others.
void prepare_run_dir(const std::filesystem::path& run_dir);

/// Who holds a lock.
struct Holder {
  pid_t pid = 0;             // 0: a process that cannot be seen from here (another container)
  uint64_t incarnation = 0;  // 0: not written yet
};

/// A lock that ends with its process. It is asked for its holder without being taken. No other code may open
/// the file: closing any descriptor of it ends the lock (man 2 fcntl, "Record locks").
class ProcessLock {
 public:
  /// Throws InputError if it cannot be had: `what` ("node node1") already runs, or the file cannot be
  /// written.
  ProcessLock(std::filesystem::path file, const std::string& what, uint64_t incarnation);
  ~ProcessLock();
  ProcessLock(const ProcessLock&) = delete;
  ProcessLock& operator=(const ProcessLock&) = delete;

  /// Whether the file still has its name: if not, commands cannot find this process any more.
  bool still_there() const;

  /// Nothing if nobody holds it. Throws InputError if that cannot be told.
  static std::optional<Holder> holder(const std::filesystem::path& file);
  /// Signals the process that holds it, if it is still that one. Returns whether.
  static bool signal_holder(const std::filesystem::path& file, const Holder& holder, int signal);

 private:
  const std::filesystem::path file_;
  int fd_;
};

std::filesystem::path node_lock_file(const std::filesystem::path& run_dir, const std::string& node);
/// Held by the head, whose node starts another when it ends. What it leaves in its file are link_port and
/// gateway_url.
std::filesystem::path head_lock_file(const std::filesystem::path& run_dir);
inline constexpr const char* head_entry = ".head";  // in place of a node's name
/// Held by the gateway of a node, if that is a process of its own; its entry is gateway_entry().
std::filesystem::path gateway_lock_file(const std::filesystem::path& run_dir, const std::string& node);
std::string gateway_entry(const std::string& node);  // in place of a node's name
/// Held by `convoy up` while it starts.
std::filesystem::path start_lock_file(const std::filesystem::path& run_dir);

/// What a running node, the head or a gateway leaves in run_dir/NAME.json.
struct NodeFile {
  struct CrashingStage {
    uint32_t instance = 0, crashes = 0;
    std::string last_end;
  };
  uint64_t incarnation = 0;
  uint16_t link_port = 0;   // 0: it does not listen yet
  std::string gateway_url;  // empty: it does not serve yet
  std::vector<CrashingStage> crashing;
  uint32_t gateway_crashes = 0;  // of the node's own
  std::string gateway_last_end;
};
/// Throws InputError if it cannot be written.
void write_node_file(const std::filesystem::path& run_dir, const std::string& node, const NodeFile& file);
void remove_node_file(const std::filesystem::path& run_dir, const std::string& node);
/// Nothing if that process left none (yet): one of an earlier process does not count.
std::optional<NodeFile> read_node_file(const std::filesystem::path& run_dir, const std::string& node,
                                       const Holder& holder);

}  // namespace convoy::cli
