#pragma once
// Cached values in their type, one of kv_types (gpu/kv_types.hpp), and how they are written and read.

#include <cstdint>
#include <cstring>

#include "gpu/backend.hpp"
#include "gpu/kv_block.hpp"

namespace convoy::gpu {

/// Where value `index` of a cache lies.
inline std::byte* kv_at(void* memory, model::DType type, int64_t index) {
  return static_cast<std::byte*>(memory) + index * model::info(type).block_bytes;
}

/// Where a position's entry lies, [width], in a stream that is kept token after token.
inline std::byte* kv_entry(const KvLayer& kv, size_t stream, const SequenceRows& s, int64_t position) {
  const KvStream& of = kv.streams[stream];
  return kv_at(of.memory.get(), kv.type, KvPlace::of(s.blocks.data(), position).by_token(of.width));
}

void store_kv(const float* from, int64_t n, model::DType type, std::byte* to);
/// The same, each value `stride` bytes after the one before.
void scatter_kv(const float* from, int64_t n, model::DType type, std::byte* to, int64_t stride);

/// n values as float32: in place if they are stored so, else widened into `scratch`.
const float* load_kv(const std::byte* from, int64_t n, model::DType type, float* scratch);

}  // namespace convoy::gpu
