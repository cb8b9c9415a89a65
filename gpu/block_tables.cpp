#include "gpu/block_tables.hpp"

#include <cassert>
#include <limits>
#include <stdexcept>
#include <string>

namespace convoy::gpu {
namespace {
constexpr uint32_t unmapped = std::numeric_limits<uint32_t>::max();
}

BlockTables::BlockTables(uint32_t blocks, uint32_t slots, int64_t context_tokens)
    : blocks_(blocks), entries_max_(kv_blocks_for(context_tokens)), tables_(slots) {}

void BlockTables::clear(uint32_t slot) {
  assert(slot < tables_.size());
  tables_[slot].clear();
}

void BlockTables::map(const BlockChange& change) {
  const auto& [slot, index, block] = change;
  if (slot >= tables_.size() || index >= entries_max_ || block >= blocks_)
    throw std::runtime_error("block change out of range: slot " + std::to_string(slot) + " of " +
                             std::to_string(tables_.size()) + ", index " + std::to_string(index) + " of " +
                             std::to_string(entries_max_) + ", block " + std::to_string(block) + " of " +
                             std::to_string(blocks_));
  if (index >= tables_[slot].size()) tables_[slot].resize(index + 1, unmapped);
  tables_[slot][index] = block;
}

std::span<const uint32_t> BlockTables::table(uint32_t slot, int64_t end) const {
  const std::vector<uint32_t>& entries = tables_[slot];
  const size_t needed = static_cast<size_t>(kv_blocks_for(end));
  for (size_t i = 0; i < needed; i++)
    if (i >= entries.size() || entries[i] == unmapped)
      throw std::runtime_error("slot " + std::to_string(slot) + " has no block " + std::to_string(i) +
                               " for positions below " + std::to_string(end));
  return {entries.data(), needed};
}

}  // namespace convoy::gpu
