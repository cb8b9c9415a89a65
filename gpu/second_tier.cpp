#include "gpu/second_tier.hpp"

#include <algorithm>
#include <cassert>
#include <limits>
#include <string>

#include "gpu/cpu/memory.hpp"
#include "model/error.hpp"
#include "model/memory_limit.hpp"

namespace convoy::gpu {

namespace {

using std::to_string;

/// A system promises more memory than it has, and ends a process that takes it: so it is asked before.
void require_memory(uint64_t bytes) {
  const model::MemoryLimit there = model::memory_available();
  if (there.bytes > 0 && bytes > there.bytes)
    throw InputError("stage.kv_host_bytes is " + to_string(bytes) + ", and " + to_string(there.bytes) +
                         " bytes are available (" + there.set_by + ")",
                     "memory", "lower it, or free some");
}

}  // namespace

SecondTier::SecondTier(const SecondTierOptions& options, uint64_t block_bytes) : block_bytes_(block_bytes) {
  if (options.host_bytes > 0) {
    const uint64_t places =
        std::min<uint64_t>(options.host_bytes / block_bytes, std::numeric_limits<uint32_t>::max() / 2);
    if (places == 0)
      throw InputError("stage.kv_host_bytes is " + to_string(options.host_bytes) +
                           ", and one KV block of this stage takes " + to_string(block_bytes),
                       "memory", "raise it, or set it to 0");
    host_bytes_ = places * block_bytes;
    require_memory(host_bytes_);
    memory_ = allocate_aligned(host_bytes_);
    held_.resize(places);
  }
  if (options.disk_bytes > 0) {
    disk_.emplace(options.disk_dir, options.disk_bytes, block_bytes);
    moved_.resize(block_bytes);
  }
}

uint32_t SecondTier::places() const {
  const uint64_t both = held_.size() + (disk_ ? disk_->places() : 0);
  return static_cast<uint32_t>(std::min<uint64_t>(both, std::numeric_limits<uint32_t>::max()));
}

bool SecondTier::holds(uint32_t place) const {
  return place < held_.size() ? held_[place] : disk_->holds(place - static_cast<uint32_t>(held_.size()));
}

void SecondTier::save(Device& device, uint32_t block, uint32_t place) {
  if (place < held_.size()) {
    held_[place] = false;
    device.save_block(block, in_memory(place));
    held_[place] = true;
  } else {
    device.save_block(block, moved_);
    disk_->save(place - static_cast<uint32_t>(held_.size()), moved_);
  }
}

void SecondTier::load(Device& device, uint32_t place, uint32_t block) {
  assert(holds(place));
  if (place < held_.size()) return device.load_block(block, in_memory(place));
  disk_->load(place - static_cast<uint32_t>(held_.size()), moved_);
  device.load_block(block, moved_);
}

void SecondTier::clear() {
  held_.assign(held_.size(), false);
  if (disk_) disk_->clear();
}

}  // namespace convoy::gpu
