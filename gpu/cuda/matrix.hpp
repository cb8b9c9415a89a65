#pragma once
// A weight in the device's memory, in the bytes of its file: kernels decode it as they read it. Rows of plain
// types are padded with zeros to whole chunks of chunk_values, so that no kernel sees a row's ragged end.

#include <cstddef>
#include <cstdint>

#include "model/tensor.hpp"

namespace convoy::cuda {

using model::DType;

/// Values that kernels read of a row at once.
inline constexpr int chunk_values = 8;
template <class T>
constexpr T padded(T columns) {
  return (columns + chunk_values - 1) / chunk_values * chunk_values;
}

struct Matrix {
  const std::byte* data = nullptr;
  const float* scales = nullptr;  // f8_e4m3: [⌈rows/128⌉, ⌈columns/128⌉], i8: [rows]; nullptr: all 1
  int64_t pitch = 0;              // bytes from a row to the next
  int32_t rows = 0, columns = 0;
  int64_t expert_bytes = 0, expert_scales = 0;  // from one expert's matrix to the next one's
  DType type = DType::f32;
};

constexpr Matrix of_expert(Matrix m, int expert) {
  m.data += expert * m.expert_bytes;
  if (m.scales) m.scales += expert * m.expert_scales;
  return m;
}

struct BlockSize {
  int values, bytes;
};
/// As model::info, which this library does not link.
constexpr BlockSize block_size(DType type) {
  switch (type) {
    case DType::f32:
      return {1, 4};
    case DType::f16:
    case DType::bf16:
      return {1, 2};
    case DType::f8_e4m3:
    case DType::i8:
      return {1, 1};
    case DType::q8_0:
      return {32, 34};
    case DType::q4_0:
    case DType::iq4_nl:
      return {32, 18};
    case DType::q4_1:
      return {32, 20};
    case DType::q4_k:
      return {256, 144};
    case DType::q5_k:
      return {256, 176};
    case DType::q6_k:
      return {256, 210};
    default:
      return {1, 8};
  }
}

/// Bytes of a row in a file.
constexpr int64_t row_bytes(DType type, int64_t columns) {
  return columns / block_size(type).values * block_size(type).bytes;
}
/// And on the device: plain types are padded to chunks, and to 16 bytes, by which they are read.
constexpr int64_t row_pitch(DType type, int64_t columns) {
  if (block_size(type).values > 1) return row_bytes(type, columns);
  return (row_bytes(type, padded(columns)) + 15) / 16 * 16;
}

}  // namespace convoy::cuda
