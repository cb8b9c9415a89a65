#pragma once
// How many KV blocks fit into a device's memory beside weights and what steps take. Pure arithmetic, for the
// engine that opens a device and for who asks beforehand.

#include <cstdint>
#include <string>

#include "gpu/device.hpp"

namespace convoy::gpu {

struct KvPool {
  uint64_t memory_bytes = 0;   // of the device
  uint32_t sharers = 1;        // ranges that divide it evenly among them
  DeviceNeeds needs;           // of one
  uint64_t host_bytes = 0;     // of one: what its host keeps beside the device's, for as long
  uint64_t useful_blocks = 0;  // what all slots together could fill

  /// As many as fit, and no more than are of use.
  uint32_t blocks() const;
  /// The arithmetic in words, for logs.
  std::string text() const;
};

/// What all slots together could fill.
uint64_t useful_kv_blocks(const DeviceLimits& limits);

/// One for a canary, and one for whoever is served.
inline constexpr uint32_t kv_blocks_min = 2;

}  // namespace convoy::gpu
