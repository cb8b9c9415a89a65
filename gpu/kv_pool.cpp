#include "gpu/kv_pool.hpp"

#include <cassert>
#include <limits>
#include <stdexcept>
#include <string>

namespace convoy::gpu {
namespace {
constexpr uint32_t unmapped = std::numeric_limits<uint32_t>::max();
}

KvPool::KvPool(Backend& backend, int64_t layers, std::span<const model::CacheStream> streams,
               model::DType type, uint32_t blocks, uint32_t slots, int64_t context_tokens)
    : blocks_(blocks), entries_max_(kv_blocks_for(context_tokens)), tables_(slots) {
  for (int64_t l = 0; l < layers; l++) {
    KvLayer& layer = layers_.emplace_back(KvLayer{{}, int64_t{blocks}, type});
    for (const model::CacheStream& stream : streams) {
      assert(kv_block_tokens % stream.tokens_per_entry == 0);
      const int64_t values = blocks * (kv_block_tokens / stream.tokens_per_entry) * stream.width;
      layer.streams.push_back(
          {backend.allocate(static_cast<size_t>(values) * model::info(type).block_bytes), stream.width});
    }
  }
}

void KvPool::clear(uint32_t slot) {
  assert(slot < tables_.size());
  tables_[slot].clear();
}

void KvPool::map(const BlockChange& change) {
  const auto& [slot, index, block] = change;
  if (slot >= tables_.size() || index >= entries_max_ || block >= blocks_)
    throw std::runtime_error("block change out of range: slot " + std::to_string(slot) + " of " +
                             std::to_string(tables_.size()) + ", index " + std::to_string(index) + " of " +
                             std::to_string(entries_max_) + ", block " + std::to_string(block) + " of " +
                             std::to_string(blocks_));
  if (index >= tables_[slot].size()) tables_[slot].resize(index + 1, unmapped);
  tables_[slot][index] = block;
}

std::span<const uint32_t> KvPool::table(uint32_t slot, int64_t end) const {
  const std::vector<uint32_t>& entries = tables_[slot];
  const size_t needed = static_cast<size_t>(kv_blocks_for(end));
  for (size_t i = 0; i < needed; i++)
    if (i >= entries.size() || entries[i] == unmapped)
      throw std::runtime_error("slot " + std::to_string(slot) + " has no block " + std::to_string(i) +
                               " for positions below " + std::to_string(end));
  return {entries.data(), needed};
}

}  // namespace convoy::gpu
