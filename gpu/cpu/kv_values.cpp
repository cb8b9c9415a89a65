#include "gpu/cpu/kv_values.hpp"

#include <algorithm>
#include <array>
#include <cassert>
#include <limits>

#include "gpu/cpu/vector_clones.hpp"
#include "model/format/quantize.hpp"

namespace convoy::gpu {

namespace {

// Named for what they turn into the other: the compiler makes vectors of their loops.

CONVOY_VECTOR_CLONES void narrow_bf16(const float* from, int64_t n, uint16_t* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = model::f32_to_bf16(from[i]);
}
CONVOY_VECTOR_CLONES void narrow_f16(const float* from, int64_t n, uint16_t* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = model::f32_to_f16(from[i]);
}
CONVOY_VECTOR_CLONES void narrow_f8(const float* from, int64_t n, uint8_t* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = model::f32_to_f8_e4m3(from[i]);
}
CONVOY_VECTOR_CLONES void widen_bf16(const uint16_t* from, int64_t n, float* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = model::bf16_to_f32(from[i]);
}
CONVOY_VECTOR_CLONES void widen_f16(const uint16_t* from, int64_t n, float* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = model::f16_to_f32(from[i]);
}

/// A number's bits are those of half precision, less its last seven, of 2^-8 of it.
CONVOY_VECTOR_CLONES void widen_f8(const uint8_t* from, int64_t n, float* to) {
  for (int64_t i = 0; i < n; ++i) {
    const uint32_t sign = from[i] & 0x80u, magnitude = from[i] & 0x7fu;
    const float number = model::f16_to_f32(static_cast<uint16_t>(sign << 8 | magnitude << 7)) * 256;
    to[i] = magnitude == 0x7f ? std::numeric_limits<float>::quiet_NaN() : number;
  }
}

/// Narrow values, each `stride` bytes after the one before.
template <class T>
void scatter(const float* from, int64_t n, model::DType type, std::byte* to, int64_t stride) {
  std::array<T, 64> narrow;
  constexpr auto together = static_cast<int64_t>(narrow.size());
  for (int64_t first = 0; first < n; first += together) {
    const int64_t count = std::min(together, n - first);
    store_kv(from + first, count, type, reinterpret_cast<std::byte*>(narrow.data()));
    for (int64_t i = 0; i < count; ++i)
      std::memcpy(to + (first + i) * stride, &narrow[static_cast<size_t>(i)], sizeof(T));
  }
}

}  // namespace

void store_kv(const float* from, int64_t n, model::DType type, std::byte* to) {
  switch (type) {
    case model::DType::f32:
      std::memcpy(to, from, static_cast<size_t>(n) * sizeof(float));
      return;
    case model::DType::bf16:
      return narrow_bf16(from, n, reinterpret_cast<uint16_t*>(to));
    case model::DType::f16:
      return narrow_f16(from, n, reinterpret_cast<uint16_t*>(to));
    default:
      assert(type == model::DType::f8_e4m3);
      return narrow_f8(from, n, reinterpret_cast<uint8_t*>(to));
  }
}

void scatter_kv(const float* from, int64_t n, model::DType type, std::byte* to, int64_t stride) {
  if (type == model::DType::f8_e4m3) return scatter<uint8_t>(from, n, type, to, stride);
  if (type != model::DType::f32) return scatter<uint16_t>(from, n, type, to, stride);
  for (int64_t i = 0; i < n; ++i) std::memcpy(to + i * stride, from + i, sizeof(float));
}

const float* load_kv(const std::byte* from, int64_t n, model::DType type, float* scratch) {
  switch (type) {
    case model::DType::f32:
      return reinterpret_cast<const float*>(from);
    case model::DType::bf16:
      widen_bf16(reinterpret_cast<const uint16_t*>(from), n, scratch);
      return scratch;
    case model::DType::f16:
      widen_f16(reinterpret_cast<const uint16_t*>(from), n, scratch);
      return scratch;
    default:
      assert(type == model::DType::f8_e4m3);
      widen_f8(reinterpret_cast<const uint8_t*>(from), n, scratch);
      return scratch;
  }
}

}  // namespace convoy::gpu
