#pragma once
// Mapping: one file, mapped read-only for as long as a tensor of it lives. Immutable; any thread may read it.
// A model file must not be shortened while it is mapped: reading past its new end raises SIGBUS, as with any
// mmap.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string_view>

namespace convoy::model {

/// Which file it is, as it was when it was opened. All zero for memory.
struct FileIdentity {
  uint64_t bytes = 0, inode = 0;
  int64_t changed_ns = 0;  // since 1970
  uint32_t owner = 0;
};

class Mapping {
 public:
  /// Maps a regular file that is not empty. Throws InputError with the path and the system's reason.
  static std::shared_ptr<const Mapping> open(const std::filesystem::path& path);
  /// The same interface over a copy of bytes in memory, under a name for messages: for tests and fuzz
  /// targets.
  static std::shared_ptr<const Mapping> copy_of(std::span<const std::byte> bytes, std::filesystem::path name);
  /// Memory that costs nothing until it is written, through `memory`: zeros, under a name for messages. Who
  /// writes makes sure that nobody reads there yet.
  static std::shared_ptr<const Mapping> reserve(size_t bytes, std::filesystem::path name,
                                                std::span<std::byte>& memory);
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }
  const std::filesystem::path& path() const { return path_; }
  const FileIdentity& identity() const { return identity_; }

  /// Announces that a part will be read whole: the kernel starts to fetch it. Other parts are fetched page by
  /// page as they are touched, without reading around. A hint, so nobody waits and nothing fails.
  void will_need(std::span<const std::byte> part) const;
  /// Gives the memory of a part back that was read through: its pages are fetched again if they are touched.
  void forget(std::span<const std::byte> part) const;

 private:
  enum class Kind : uint8_t { file, copy };  // copy: only here, so its pages may not be forgotten
  Mapping(std::filesystem::path path, const std::byte* data, size_t size, Kind kind);
  void check(std::span<const std::byte> part) const;

  std::filesystem::path path_;
  FileIdentity identity_;
  const std::byte* data_;
  size_t size_;
  Kind kind_;
};

/// How files are come by that a model consists of; null if there is none of that path.
using OpenFile = std::function<std::shared_ptr<const Mapping>(const std::filesystem::path&)>;
/// Mapping::open, of a file that may be missing.
std::shared_ptr<const Mapping> open_file(const std::filesystem::path& path);

/// Mapping::will_need for who does not know the mapping, nor whether the bytes are of one.
void will_need(std::span<const std::byte> part);
/// Fetches a part that will be read again and again, and waits for it: no later reader waits for the disk.
/// Where the system cannot, readers do. Throws InputError if the part is not there to be read.
void fetch(std::span<const std::byte> part);

}  // namespace convoy::model
