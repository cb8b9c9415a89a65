#pragma once
// A weight in the device's memory, in the values of its file: kernels decode it as they read it. Rows of
// plain types are padded with zeros to whole chunks of chunk_values, so that no kernel sees a row's ragged
// end; the bytes of a row of some others are arranged anew, as many as they were.

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
  const float* scales = nullptr;  // f8_e4m3: [⌈rows/128⌉, scale_pitch], i8: [rows]; nullptr: all 1
  int64_t pitch = 0;              // bytes from a row to the next
  int32_t rows = 0, columns = 0;
  int64_t expert_bytes = 0, expert_scales = 0;  // from one expert's matrix to the next one's
  int32_t scale_pitch = 0;                      // f8_e4m3: from a block of rows to the next
  int32_t heads_from = 0, expert_heads = 0;  // arranged types: bytes from a row's begin to its blocks' heads
  DType type = DType::f32;
};

constexpr Matrix of_expert(Matrix m, int expert) {
  m.data += expert * m.expert_bytes;
  if (m.scales) m.scales += expert * m.expert_scales;
  m.heads_from += expert * m.expert_heads;
  return m;
}

/// Some of its rows; of f8_e4m3 with scales a block's first is one of them.
constexpr Matrix rows_of(Matrix m, int first, int count) {
  m.data += first * m.pitch, m.rows = count;
  if (m.scales) m.scales += m.type == DType::i8 ? first : first / 128 * m.scale_pitch;
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

/// Values of some types lie on the device in units of 64 bytes, so that what a thread multiplies at once is
/// sixteen bytes of a row (gemm_stream.cuh). A unit has two runs of 32 bytes; thread q of four has bytes 8 q
/// to 8 q + 7 of both. A byte is a value, or (q4_0, q4_1, q4_k) one of 32 values in its low half and, in its
/// high half, the one 32 further. Behind a row's units lies what the file keeps with each block: its head.
inline constexpr int unit_bytes = 64, run_bytes = 32;
constexpr bool has_nibbles(DType type) {
  return type == DType::q4_0 || type == DType::q4_1 || type == DType::q4_k;
}
constexpr bool is_arranged(DType type) {
  return has_nibbles(type) || type == DType::f8_e4m3 || type == DType::i8 || type == DType::q8_0;
}
/// Whether products with such weights are streamed (gemm_stream.hpp) where rows are few.
constexpr bool is_streamed(DType type) { return type == DType::bf16 || is_arranged(type); }
constexpr int unit_values(DType type) { return has_nibbles(type) ? 2 * unit_bytes : unit_bytes; }
/// Of a block, before its values.
constexpr int head_bytes(DType type) {
  const BlockSize block = block_size(type);
  return block.bytes - block.values / (has_nibbles(type) ? 2 : 1);
}
/// Where the heads begin in a row.
constexpr int64_t units_bytes(DType type, int64_t columns) {
  return (columns + unit_values(type) - 1) / unit_values(type) * unit_bytes;
}
/// Where byte `byte` of a unit's run lies in the unit. Of nibbles, pairs of values are what one instruction
/// takes out of a word: its second and third byte change places.
constexpr int place_in_unit(DType type, int run, int byte) {
  const int place = byte / 8 * 16 + run * 8 + byte % 8, of_word = place % 4;
  return has_nibbles(type) && (of_word == 1 || of_word == 2) ? place + 3 - 2 * of_word : place;
}

/// A matrix whose rows, or columns, `experts` have even shares of, as those experts' matrices; and whether
/// none of its blocks is two experts'.
constexpr bool rows_share(const Matrix& m, int experts) {
  return m.rows % experts == 0 && (!m.scales || m.type == DType::i8 || m.rows / experts % 128 == 0);
}
constexpr Matrix shared_rows(Matrix m, int experts) {
  m.rows /= experts, m.expert_bytes = m.rows * m.pitch;
  m.expert_scales = m.type == DType::i8 ? m.rows : m.rows / 128 * m.scale_pitch;
  return m;
}
constexpr bool columns_share(const Matrix& m, int experts) {
  const int of_block = m.scales && m.type == DType::f8_e4m3 ? 128
                       : is_arranged(m.type) && block_size(m.type).values < unit_values(m.type)
                           ? unit_values(m.type)
                           : block_size(m.type).values;
  return m.columns % experts == 0 && m.columns / experts % of_block == 0;
}
constexpr Matrix shared_columns(Matrix m, int experts) {
  m.columns /= experts;
  m.expert_bytes = is_arranged(m.type) ? units_bytes(m.type, m.columns) : row_bytes(m.type, m.columns);
  // An expert's heads lie as much further as it has blocks, and nearer by what it is further itself.
  const auto heads = m.columns / block_size(m.type).values * head_bytes(m.type);
  m.expert_heads = static_cast<int32_t>(heads - m.expert_bytes);
  m.expert_scales = m.type == DType::i8 ? 0 : m.columns / 128;
  return m;
}

/// Bytes of a row on the device: plain types are padded to chunks, and all that are read by 16 bytes to
/// these.
constexpr int64_t row_pitch(DType type, int64_t columns) {
  int64_t bytes = row_bytes(type, padded(columns));
  if (is_arranged(type))
    bytes = units_bytes(type, columns) + columns / block_size(type).values * head_bytes(type);
  else if (block_size(type).values > 1)
    return bytes;
  return (bytes + 15) / 16 * 16;
}

}  // namespace convoy::cuda
