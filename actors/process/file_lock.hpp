#pragma once
// FileLock: holds a file or folder of ours against whoever else would change it, in any process. Ends with
// its process, at the latest. Used by commands, and by the head when a machine joins.

#include <filesystem>

namespace convoy::actors {

class FileLock {
 public:
  /// file: what is locked, an empty file beside what it stands for, made if it is not there. Waits two
  /// seconds at most; throws InputError if it cannot be had.
  explicit FileLock(const std::filesystem::path& file);
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  int descriptor_;
};

}  // namespace convoy::actors
