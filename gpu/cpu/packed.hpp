#pragma once
// Quantised weights as the fast kernels read them. Sixteen outputs are a tile, and a tile's bytes lie in the
// order in which a kernel takes them: group after group of blocks, and in a group each dword of the first
// output beside the same one of the other fifteen, so that a register of sixteen lanes is one line of memory.
// A block's only half-precision number that shares its dword with something else, q4_0's scale at the
// beginning or q6_k's at the end, is a unit of its own.

#include <cstddef>
#include <cstdint>

#include "model/tensor.hpp"

namespace convoy::gpu {

/// Outputs that a kernel computes together.
inline constexpr int64_t output_tile = 16;

/// Of so many rows: whole tiles.
size_t packed_bytes(int64_t rows, int64_t row_bytes);

/// Packs up to output_tile rows as stored, `row_bytes` apart, of a quantised type; zeros stand for rows that
/// are missing.
void pack_tile(model::DType type, const std::byte* rows, int64_t count, int64_t row_bytes, std::byte* tile);

/// The largest block of a quantised type, q6_k's.
inline constexpr size_t block_bytes_max = 210;

/// A block of one of the packed rows, as it was stored.
void unpack_block(model::DType type, const std::byte* packed, int64_t row_bytes, int64_t row, int64_t block,
                  std::byte* to);

}  // namespace convoy::gpu
