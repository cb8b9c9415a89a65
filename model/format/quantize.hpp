#pragma once
// Encoders: float32 weights to the types that a Tensor can have. `convoy quantize` calls them, a row or a
// matrix at a time, from as many threads as it likes. What they write, dequantize_row reads back.

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

/// To the nearest, ties to even. What is too large becomes 448: there is no infinity.
uint8_t f32_to_f8_e4m3(float x);

}  // namespace convoy::model
