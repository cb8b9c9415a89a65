#include "gpu/kv_pool.hpp"

#include <algorithm>
#include <limits>

namespace convoy::gpu {

namespace {

std::string mib(uint64_t bytes) { return std::to_string((bytes + (1 << 20) - 1) >> 20) + " MiB"; }

}  // namespace

uint32_t KvPool::blocks() const {
  const uint64_t taken = needs.weight_bytes + needs.buffer_bytes + needs.scratch_bytes + host_bytes;
  const uint64_t share = memory_bytes / sharers;
  if (share <= taken || needs.kv_block_bytes == 0) return 0;
  return static_cast<uint32_t>(std::min<uint64_t>(
      {(share - taken) / needs.kv_block_bytes, useful_blocks, std::numeric_limits<uint32_t>::max()}));
}

std::string KvPool::text() const {
  return "(" + mib(memory_bytes) + " / " + std::to_string(sharers) + " - " + mib(needs.weight_bytes) +
         " of weights - " + mib(needs.buffer_bytes + needs.scratch_bytes + host_bytes) +
         " to compute in) / " + std::to_string(needs.kv_block_bytes) + " bytes of a block, of which " +
         std::to_string(useful_blocks) + " could be used: " + std::to_string(blocks()) + " blocks";
}

uint64_t useful_kv_blocks(const DeviceLimits& limits) {
  return uint64_t{limits.slots} * kv_blocks_for(static_cast<uint64_t>(limits.context_tokens));
}

}  // namespace convoy::gpu
