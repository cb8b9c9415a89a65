#pragma once
// BlockFile: copies of KV blocks on a disk, in numbered places of one size. The file has no name, so nobody
// can find or delete it, and it goes with the process; what the disk still has of it then says nothing, since
// blocks are encrypted with a key that goes, too. The same cipher finds what was damaged. Engine owns one and
// calls it on its thread, which waits for the disk.

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

namespace convoy::gpu {

class BlockFile {
 public:
  /// Takes the disk's space at once, so that a full disk is found before the first step: as many places as
  /// fit into `bytes`. Throws InputError if there is not so much, no file can be made in the folder, or not
  /// one block fits.
  BlockFile(const std::filesystem::path& folder, uint64_t bytes, uint64_t block_bytes);
  ~BlockFile();
  BlockFile(const BlockFile&) = delete;
  BlockFile& operator=(const BlockFile&) = delete;

  uint32_t places() const { return static_cast<uint32_t>(places_.size()); }
  uint64_t block_bytes() const { return block_bytes_; }
  bool holds(uint32_t place) const { return places_[place].number != 0; }

  /// Instead of what the place held. Throws std::runtime_error if the disk does not take it.
  void save(uint32_t place, std::span<const std::byte> block);
  /// What was saved there last. Throws std::runtime_error, and leaves anything in `block`, if the disk gives
  /// something else or nothing.
  void load(uint32_t place, std::span<std::byte> block) const;
  /// Empties all places.
  void clear();

 private:
  struct Place {
    uint64_t number = 0;  // of what it holds: no two have the same, so none is taken for another. 0: empty
    std::array<std::byte, 16> tag{};
  };

  std::filesystem::path folder_;  // for messages
  uint64_t block_bytes_;
  int fd_ = -1;
  std::array<std::byte, 16> key_;
  uint64_t saved_ = 0;  // so far
  std::vector<Place> places_;
  std::vector<std::byte> piece_;
};

}  // namespace convoy::gpu
