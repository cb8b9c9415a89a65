#pragma once
// A folder of a test, and the nameless file that this process has open in it: tests look into it and damage
// it.

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/test/unit_test.hpp>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace convoy::gpu::test {

struct Folder {
  Folder() {
    std::string name = std::filesystem::temp_directory_path() / "convoy-XXXXXX";
    BOOST_REQUIRE(mkdtemp(name.data()));
    path = name;
  }
  ~Folder() { std::filesystem::remove_all(path); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  std::filesystem::path path;
};

/// The file that is open in the folder, once more; closed with this.
class OpenFile {
 public:
  explicit OpenFile(const Folder& folder) {
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
      std::error_code gone;
      const std::string target = std::filesystem::read_symlink(entry.path(), gone).string();
      if (gone || !target.starts_with(folder.path.string() + "/")) continue;
      BOOST_REQUIRE(fd_ < 0);  // one
      fd_ = open(entry.path().c_str(), O_RDWR | O_CLOEXEC);
      BOOST_REQUIRE(fd_ >= 0);
      break;
    }
    BOOST_REQUIRE(fd_ >= 0);
  }
  ~OpenFile() { close(fd_); }
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;
  int fd() const { return fd_; }

 private:
  int fd_ = -1;
};

inline uint64_t file_bytes(const Folder& folder) {
  struct stat status {};
  BOOST_REQUIRE(fstat(OpenFile(folder).fd(), &status) == 0);
  return static_cast<uint64_t>(status.st_size);
}

inline std::vector<std::byte> read_file(const Folder& folder) {
  std::vector<std::byte> bytes(file_bytes(folder));
  BOOST_REQUIRE(pread(OpenFile(folder).fd(), bytes.data(), bytes.size(), 0) ==
                static_cast<ssize_t>(bytes.size()));
  return bytes;
}

inline void write_file(const Folder& folder, const std::vector<std::byte>& bytes, uint64_t offset = 0) {
  BOOST_REQUIRE(pwrite(OpenFile(folder).fd(), bytes.data(), bytes.size(), static_cast<off_t>(offset)) ==
                static_cast<ssize_t>(bytes.size()));
}

inline void flip_byte(const Folder& folder, uint64_t offset) {
  write_file(folder, {read_file(folder).at(offset) ^ std::byte{0x10}}, offset);
}

inline void truncate_file(const Folder& folder, uint64_t bytes) {
  BOOST_REQUIRE(ftruncate(OpenFile(folder).fd(), static_cast<off_t>(bytes)) == 0);
}

}  // namespace convoy::gpu::test
