#pragma once
// Cached values in their type: f32, bf16 or f16. Rounded to nearest even when they are written.

#include <cstdint>
#include <cstring>

#include "model/tensor.hpp"

namespace convoy::gpu {

/// Where value `index` of a cache lies.
inline std::byte* kv_at(void* memory, model::DType type, int64_t index) {
  return static_cast<std::byte*>(memory) + index * model::info(type).block_bytes;
}

void store_kv(const float* from, int64_t n, model::DType type, std::byte* to);

/// n values as float32: in place if they are stored so, else widened into `scratch`.
const float* load_kv(const std::byte* from, int64_t n, model::DType type, float* scratch);

}  // namespace convoy::gpu
