#include "actors/process/log_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "actors/process/log.hpp"
#include "actors/process/private_files.hpp"
#include "model/error.hpp"
#include "model/scarce.hpp"

namespace convoy::log {

namespace fs = std::filesystem;

namespace {

bool same_file(const struct stat& a, const struct stat& b) {
  return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

fs::path numbered(const fs::path& file, uint32_t number) {
  return file.string() + "." + std::to_string(number);
}

}  // namespace

int open_log_file(const fs::path& file) {
  const int fd = actors::open_private(file, O_WRONLY | O_CREAT | O_APPEND);
  if (fd < 0)
    throw InputError(std::string("the log cannot be opened: ") + std::strerror(errno), file.string(),
                     mend_of(errno, "make it a file, in a folder, that this user may write"));
  return fd;
}

bool rotate(const fs::path& file, const LogRotation& rotation) {
  struct stat status {};
  if (rotation.bytes_max == 0 || lstat(file.c_str(), &status) != 0) return false;
  if (static_cast<uint64_t>(status.st_size) <= rotation.bytes_max) return false;
  std::error_code error;  // the older ones may not be there
  if (rotation.files_max > 0) fs::remove(numbered(file, rotation.files_max), error);
  for (uint32_t i = rotation.files_max; i > 1; --i)
    fs::rename(numbered(file, i - 1), numbered(file, i), error);
  if (rotation.files_max > 0)
    fs::rename(file, numbered(file, 1), error);
  else
    fs::remove(file, error);
  if (!error) return true;
  log::warn_limited("log.not_rotated", {{"file", file.string()}, {"reason", error.message()}});
  return false;
}

void LogFile::tend() {
  if (file_.empty()) return;
  rotate(file_, rotation_);
  struct stat named {
  }, written{};
  if (lstat(file_.c_str(), &named) == 0 && fstat(STDERR_FILENO, &written) == 0 && same_file(named, written))
    return;
  reopen();
}

void LogFile::reopen() {
  if (file_.empty()) return;
  int fd = -1;
  try {
    fd = open_log_file(file_);
  } catch (const InputError& e) {  // it goes on in the old one
    return log::warn_limited("log.not_reopened", {{"reason", e.what()}});
  }
  for (const int output : {STDOUT_FILENO, STDERR_FILENO}) dup2(fd, output);
  close(fd);
}

}  // namespace convoy::log
