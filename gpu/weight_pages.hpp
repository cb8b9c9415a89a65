#pragma once
// WeightPages: the weights of a layer range as a device takes them, and their pages, which all processes that
// map the file share. Engine hands them on as they come; a process that waits for a place fetches them only.
// One thread.

#include <cstdint>
#include <span>
#include <vector>

#include "gpu/device.hpp"
#include "model/checkpoint/checkpoint.hpp"

namespace convoy::gpu {

class WeightPages {
 public:
  /// The weights outlive it.
  explicit WeightPages(const model::StageWeights& weights);

  size_t layers() const { return layers_.size() - 1; }
  /// Of one layer; of index layers(), those of none.
  const std::vector<WeightRef>& parts(size_t index) const { return layers_[index]; }
  uint64_t bytes(size_t index) const { return bytes_[index]; }
  uint64_t bytes() const;

  /// Tells the system that all will be read, so that the disk is never idle. Waits for nothing.
  void announce() const;
  /// Waits until those of one index are in memory. Throws InputError if they cannot be read.
  void fetch(size_t index) const;

 private:
  std::vector<std::vector<WeightRef>> layers_;
  std::vector<uint64_t> bytes_;
};

}  // namespace convoy::gpu
