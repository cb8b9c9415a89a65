#pragma once
// Encoders: float32 weights to the types that a Tensor can have. `convoy quantize` calls them, a row or a
// matrix at a time, from as many threads as it likes. What they write, dequantize_row reads back.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

#include "model/tensor.hpp"

namespace convoy::model {

/// Whether quantize_row writes this type: f32, f16, bf16, q8_0, q4_0, q4_1 and q4_k.
bool can_encode(DType type);

/// Encodes one row: whole blocks, out of exactly the size they take. Throws InputError at a value that is not
/// finite, or too large for the type.
void quantize_row(DType type, std::span<const float> row, std::span<std::byte> out);

/// Encodes a matrix [rows, columns] as f8_e4m3 in blocks of 128 × 128, smaller ones at the right and lower
/// edges. value = e4m3 · scale_inv of its block, scale_inv: [⌈rows / 128⌉, ⌈columns / 128⌉] = largest
/// magnitude / 448, or 1 where all are zero. Throws InputError at a value that is not finite.
void quantize_block_fp8(std::span<const float> matrix, int64_t rows, int64_t columns,
                        std::span<std::byte> e4m3, std::span<float> scale_inv);

/// Encodes one row as i8. value = i8 · the scale that it returns: the row's largest magnitude / 127 or a
/// little more, so that bfloat16 holds it (other readers keep scales in a model's type), or 1 where all are
/// zero. Throws InputError at a value that is not finite.
float quantize_row_i8(std::span<const float> row, std::span<std::byte> out);

/// To the nearest, ties to even; NaN stays NaN. What is too large becomes 448: there is no infinity. Without
/// branches, so that loops over it become vectors.
inline uint8_t f32_to_f8_e4m3(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  const uint32_t sign = bits >> 24 & 0x80, magnitude = bits & 0x7fffffffu;
  // Half of the last place that stays, less one if that place is even; the carry runs into the exponent.
  const uint32_t rounded = (magnitude + 0x7ffff + (magnitude >> 20 & 1) - (120u << 23)) >> 20;
  // Below the smallest normal number, 2^-6: the addition rounds to multiples of 2^-9.
  const uint32_t small = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0x1p14f) - 0x46800000u;
  const uint32_t finite = magnitude < 0x3c800000u ? small : rounded;
  const uint32_t number = magnitude >= 0x43e00000u ? 0x7e : finite;  // 448
  return static_cast<uint8_t>(sign | (magnitude > 0x7f800000u ? 0x7f : number));
}

}  // namespace convoy::model
