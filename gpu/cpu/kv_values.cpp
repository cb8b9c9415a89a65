#include "gpu/cpu/kv_values.hpp"

#include <algorithm>
#include <array>
#include <cassert>

#include "gpu/cpu/vector_clones.hpp"

namespace convoy::gpu {

namespace {

// Named for what they turn into the other: the compiler makes vectors of their loops.

CONVOY_VECTOR_CLONES void narrow_bf16(const float* from, int64_t n, uint16_t* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = model::f32_to_bf16(from[i]);
}
CONVOY_VECTOR_CLONES void narrow_f16(const float* from, int64_t n, uint16_t* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = model::f32_to_f16(from[i]);
}
CONVOY_VECTOR_CLONES void widen_bf16(const uint16_t* from, int64_t n, float* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = model::bf16_to_f32(from[i]);
}
CONVOY_VECTOR_CLONES void widen_f16(const uint16_t* from, int64_t n, float* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = model::f16_to_f32(from[i]);
}

}  // namespace

void store_kv(const float* from, int64_t n, model::DType type, std::byte* to) {
  if (type == model::DType::f32) {
    std::memcpy(to, from, static_cast<size_t>(n) * sizeof(float));
    return;
  }
  assert(type == model::DType::bf16 || type == model::DType::f16);
  auto* const narrow = reinterpret_cast<uint16_t*>(to);
  type == model::DType::bf16 ? narrow_bf16(from, n, narrow) : narrow_f16(from, n, narrow);
}

void scatter_kv(const float* from, int64_t n, model::DType type, std::byte* to, int64_t stride) {
  if (type == model::DType::f32) {
    for (int64_t i = 0; i < n; ++i) std::memcpy(to + i * stride, from + i, sizeof(float));
    return;
  }
  std::array<uint16_t, 64> narrow;
  constexpr auto together = static_cast<int64_t>(narrow.size());
  for (int64_t first = 0; first < n; first += together) {
    const int64_t count = std::min(together, n - first);
    store_kv(from + first, count, type, reinterpret_cast<std::byte*>(narrow.data()));
    for (int64_t i = 0; i < count; ++i)
      std::memcpy(to + (first + i) * stride, &narrow[static_cast<size_t>(i)], sizeof(uint16_t));
  }
}

const float* load_kv(const std::byte* from, int64_t n, model::DType type, float* scratch) {
  if (type == model::DType::f32) return reinterpret_cast<const float*>(from);
  const auto* const narrow = reinterpret_cast<const uint16_t*>(from);
  type == model::DType::bf16 ? widen_bf16(narrow, n, scratch) : widen_f16(narrow, n, scratch);
  return scratch;
}

}  // namespace convoy::gpu
