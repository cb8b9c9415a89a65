#include "gpu/cpu/kv_values.hpp"

#include <cassert>

namespace convoy::gpu {

void store_kv(const float* from, int64_t n, model::DType type, std::byte* to) {
  if (type == model::DType::f32) {
    std::memcpy(to, from, static_cast<size_t>(n) * sizeof(float));
    return;
  }
  assert(type == model::DType::bf16 || type == model::DType::f16);
  const auto narrow = type == model::DType::bf16 ? model::f32_to_bf16 : model::f32_to_f16;
  for (int64_t i = 0; i < n; ++i) {
    const uint16_t bits = narrow(from[i]);
    std::memcpy(to + 2 * i, &bits, sizeof bits);
  }
}

const float* load_kv(const std::byte* from, int64_t n, model::DType type, float* scratch) {
  if (type == model::DType::f32) return reinterpret_cast<const float*>(from);
  const auto widen = type == model::DType::bf16 ? model::bf16_to_f32 : model::f16_to_f32;
  for (int64_t i = 0; i < n; ++i) {
    uint16_t bits;
    std::memcpy(&bits, from + 2 * i, sizeof bits);
    scratch[i] = widen(bits);
  }
  return scratch;
}

}  // namespace convoy::gpu
