#pragma once
// KvPool: the keys and values of a stage's layers in blocks of kv_block_tokens tokens, and each slot's block
// table. The pipeline decides which block goes where; the pool checks what it is told. The engine calls it,
// on its thread.

#include <cstdint>
#include <span>
#include <vector>

#include "gpu/backend.hpp"

namespace convoy::gpu {

class KvPool {
 public:
  /// Every layer has these streams, with values of `type`.
  KvPool(Backend& backend, int64_t layers, std::span<const model::CacheStream> streams, model::DType type,
         uint32_t blocks, uint32_t slots, int64_t context_tokens);

  const KvLayer& layer(int64_t index) const { return layers_[index]; }

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
  std::vector<KvLayer> layers_;
  std::vector<std::vector<uint32_t>> tables_;  // of each slot
};

}  // namespace convoy::gpu
