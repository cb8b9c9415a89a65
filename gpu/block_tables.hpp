#pragma once
// BlockTables: which KV block of the pool holds which tokens of each slot. The pipeline decides; Engine
// checks by its table what it is told, and a device finds the blocks by its own. Belongs to one thread.

#include <cstdint>
#include <span>
#include <vector>

#include "gpu/step.hpp"

namespace convoy::gpu {

class BlockTables {
 public:
  BlockTables(uint32_t blocks, uint32_t slots, int64_t context_tokens);

  /// Empties the slot's table.
  void clear(uint32_t slot);
  /// table[index] = block. Throws std::runtime_error if slot, index or block is out of range.
  void map(const BlockChange& change);
  /// The table entries that positions below `end` need. Throws std::runtime_error if one of them is not
  /// mapped.
  std::span<const uint32_t> table(uint32_t slot, int64_t end) const;

 private:
  uint32_t blocks_;
  int64_t entries_max_;
  std::vector<std::vector<uint32_t>> tables_;  // of each slot
};

}  // namespace convoy::gpu
