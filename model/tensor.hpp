#pragma once
// A tensor of a checkpoint as it lies in the file: type, shape and a view of mapped bytes. No copy, no
// arithmetic.

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

namespace convoy::model {

/// Element types on disk. f8_e4m3 has no infinity (e4m3fn): 0x7f and 0xff are NaN, 448 is its largest number.
/// i8 is a whole number times a scale of its row. GGML's blocks of 32 values along a row:
///   q8_0:   f16 d, int8 q[32]            value = d·q           34 bytes
///   q4_0:   f16 d, nibbles[16]           value = d·(q − 8)     18 bytes
///   q4_1:   f16 d, f16 m, nibbles[16]    value = d·q + m       20 bytes
///   iq4_nl: f16 d, nibbles[16]           value = d·table[q]    18 bytes
/// (byte j of the nibbles holds value j in its low half and value j + 16 in its high half)
/// and of 256 values, in parts with a small integer scale s (and minimum m) each:
///   q4_k: f16 d, f16 dmin, scales[12], nibbles[128]            value = d·s·q − dmin·m      144 bytes
///   q5_k: f16 d, f16 dmin, scales[12], top[32], nibbles[128]   the same with 5-bit q       176 bytes
///   q6_k: nibbles[128], top[64], int8 s[16], f16 d             value = d·s·(q − 32)        210 bytes
/// (parts of 32 in q4_k and q5_k, 16 in q6_k; tensor.cpp says where each bit lies)
enum class DType : uint8_t { f32, f16, bf16, f8_e4m3, q8_0, q4_0, q4_1, iq4_nl, q4_k, q5_k, q6_k, i8, i64 };

/// The numbers that an iq4_nl nibble stands for.
inline constexpr std::array<int8_t, 16> iq4_nl_values{-127, -104, -83, -65, -49, -35, -22, -10,
                                                      1,    13,   25,  38,  53,  69,  89,  113};

/// DeepSeek's FP8 weights have one float32 scale for each block of so many rows and columns; blocks at the
/// edges are partial.
inline constexpr int64_t fp8_block = 128;
constexpr int64_t fp8_blocks(int64_t rows_or_columns) {
  return (rows_or_columns + fp8_block - 1) / fp8_block;
}

struct DTypeInfo {
  std::string_view name;
  uint32_t block_values;  // values per block along a row; 1 for plain types
  uint32_t block_bytes;
};
const DTypeInfo& info(DType type);

/// Bytes that a tensor of this type and shape takes. Nothing when that overflows 64 bits, a dimension is
/// negative, or a row is not a whole number of blocks: shapes come from files, so every caller has to look.
std::optional<uint64_t> byte_size(DType type, std::span<const int64_t> shape);

/// Keeps a mapping alive. Tensors of one file share it.
class Mapping;

struct Tensor {
  DType type = DType::f32;
  std::vector<int64_t> shape;        // outermost first: a weight matrix is [out, in]
  std::span<const std::byte> bytes;  // exactly the size that type and shape give
  std::shared_ptr<const Mapping> owner;
  /// float32; f8_e4m3: [⌈rows/128⌉, ⌈columns/128⌉], i8: [rows]; empty: all 1
  std::span<const std::byte> scales{};
  std::shared_ptr<const Mapping> scales_owner{};

  int64_t rows() const { return shape.size() == 2 ? shape[0] : 1; }
  int64_t columns() const { return shape.empty() ? 1 : shape.back(); }
  size_t row_bytes() const {
    return static_cast<size_t>(columns()) / info(type).block_values * info(type).block_bytes;
  }
};

/// Row `row` of a tensor widened to float32; out has columns() values. The reference of every decoder.
void dequantize_row(const Tensor& tensor, int64_t row, std::span<float> out);

/// How many scales a matrix of that type has.
size_t scale_count(DType type, int64_t rows, int64_t columns);
/// The shape of the tensor that holds them: types with scales only.
std::vector<int64_t> scales_shape(DType type, int64_t rows, int64_t columns);
/// What that tensor's name has after the weight's; empty for a type without scales.
std::string_view scales_suffix(DType type);

/// Every value of an i64 tensor; the mapping need not be aligned.
std::vector<int64_t> integers(const Tensor& tensor);

/// Rows first..first + rows of a matrix, in the same bytes. f8_e4m3 with scales: from a block's first row.
Tensor row_range(const Tensor& tensor, int64_t first, int64_t rows);

// Without branches, so that loops over them become vectors.

inline float f16_to_f32(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = half >> 10 & 31, fraction = half & 1023;
  // Zero, subnormal: fraction · 2^-24.
  const auto small = std::bit_cast<uint32_t>(static_cast<float>(static_cast<int32_t>(fraction)) * 0x1p-24f);
  const uint32_t number = (exponent + 112) << 23 | fraction << 13;
  const uint32_t infinite = 0x7f800000u | fraction << 13;  // or NaN
  return std::bit_cast<float>(sign | (exponent == 31 ? infinite : exponent == 0 ? small : number));
}
inline float bf16_to_f32(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
/// To nearest, ties to even; NaN stays NaN.
inline uint16_t f32_to_f16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffffu;
  const uint32_t rounded = (magnitude + 0xfff + (magnitude >> 13 & 1) - 0x38000000u) >> 13;
  // Subnormal: the addition rounds to multiples of 2^-24.
  const uint32_t small = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  const uint32_t finite = magnitude < 0x38800000u ? small : rounded;
  const uint32_t whole = magnitude >= 0x477ff000u ? 0x7c00 : finite;  // rounds to infinity
  return static_cast<uint16_t>(sign | (magnitude > 0x7f800000u ? 0x7e00 : whole));
}
inline uint16_t f32_to_bf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t quiet = bits >> 16 | 64, rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}
float f8_e4m3_to_f32(uint8_t bits);

}  // namespace convoy::model
