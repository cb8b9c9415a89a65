#pragma once
// SecondTier: where KV blocks go that have no room on the device, in numbered places: those of the host's
// memory first, then those of a disk. Engine owns one and calls it on its thread, which waits for both.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <vector>

#include "gpu/backend.hpp"
#include "gpu/block_file.hpp"
#include "gpu/device.hpp"

namespace convoy::gpu {

struct SecondTierOptions {
  uint64_t host_bytes = 0;  // of the machine's memory
  uint64_t disk_bytes = 0;  // of the disk that disk_dir is on
  std::filesystem::path disk_dir = {};
  bool any() const { return host_bytes > 0 || disk_bytes > 0; }
  bool operator==(const SecondTierOptions&) const = default;
};

class SecondTier {
 public:
  /// Takes memory and disk at once, so that what is not there is found before the first step. Throws
  /// InputError with the key to change. Not both are 0. The host's memory has to outlive the device, which
  /// may have it page-locked.
  SecondTier(const SecondTierOptions& options, uint64_t block_bytes);

  uint32_t places() const;
  bool holds(uint32_t place) const;
  /// Block of the device → place, instead of what the place held.
  void save(Device& device, uint32_t block, uint32_t place);
  /// Place that holds something → block of the device. Throws std::runtime_error if a disk gives something
  /// else.
  void load(Device& device, uint32_t place, uint32_t block);
  /// Empties all places.
  void clear();
  std::span<std::byte> host_memory() const { return {static_cast<std::byte*>(memory_.get()), host_bytes_}; }

 private:
  std::span<std::byte> in_memory(uint32_t place) const {
    return host_memory().subspan(place * block_bytes_, block_bytes_);
  }

  uint64_t block_bytes_, host_bytes_ = 0;
  Buffer memory_;
  std::vector<bool> held_;  // of the places in memory_
  std::optional<BlockFile> disk_;
  std::vector<std::byte> moved_;  // a block on its way from or to the disk
};

}  // namespace convoy::gpu
