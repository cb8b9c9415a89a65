#pragma once
// LogFile: the file behind a background process's standard output and error. A node and its stages write to
// one file: the node rotates it, all follow. Owned by a process's main thread, which tends it about once a
// second; other threads write meanwhile and lose nothing.

#include <cstdint>
#include <filesystem>

namespace convoy::log {

struct LogRotation {
  uint64_t bytes_max = 0;  // longer, and it is put aside as FILE.1; 0: others rotate it
  uint32_t files_max = 0;  // how many of those are kept
};

/// Opens for appending, made with mode 0600. Throws InputError if it cannot be opened, is another user's or
/// open to others.
int open_log_file(const std::filesystem::path& file);

/// FILE is FILE.1 from now on, FILE.1 is FILE.2 and so on, if FILE is longer than it may be. Returns whether.
bool rotate(const std::filesystem::path& file, const LogRotation& rotation);

class LogFile {
 public:
  /// file: what standard output and error are now. Empty: nothing is ever done.
  LogFile(std::filesystem::path file, LogRotation rotation) : file_(std::move(file)), rotation_(rotation) {}

  /// Rotates what got too long; writes on in the file of that name if another process put the old one aside.
  void tend();
  /// Writes on in the file of that name, whatever it is now: for SIGHUP.
  void reopen();

 private:
  const std::filesystem::path file_;
  const LogRotation rotation_;
};

}  // namespace convoy::log
