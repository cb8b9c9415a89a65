#include "model/tensor.hpp"

#include <array>
#include <bit>
#include <cassert>
#include <cstring>

#include "model/matrix_bytes.hpp"

namespace convoy::model {

namespace {

// Indexed by DType.
constexpr std::array<DTypeInfo, 13> dtypes{{{"F32", 1, 4},
                                            {"F16", 1, 2},
                                            {"BF16", 1, 2},
                                            {"F8_E4M3", 1, 1},
                                            {"Q8_0", 32, 34},
                                            {"Q4_0", 32, 18},
                                            {"Q4_1", 32, 20},
                                            {"IQ4_NL", 32, 18},
                                            {"Q4_K", 256, 144},
                                            {"Q5_K", 256, 176},
                                            {"Q6_K", 256, 210},
                                            {"I8", 1, 1},
                                            {"I64", 1, 8}}};

// Mapped bytes have no alignment we could rely on, and may not be read through another type.
template <class T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

float load_f16(const std::byte* from) { return f16_to_f32(load<uint16_t>(from)); }

void widen_q8_0(const std::byte* block, float* out) {
  const float d = load_f16(block);
  for (int j = 0; j < 32; ++j) out[j] = d * static_cast<float>(load<int8_t>(block + 2 + j));
}

void widen_q4_0(const std::byte* block, float* out) {
  const float d = load_f16(block);
  for (int j = 0; j < 16; ++j) {
    const auto pair = load<uint8_t>(block + 2 + j);
    out[j] = d * static_cast<float>((pair & 15) - 8);
    out[j + 16] = d * static_cast<float>((pair >> 4) - 8);
  }
}

void widen_q4_1(const std::byte* block, float* out) {
  const float d = load_f16(block);
  const float m = load_f16(block + 2);
  for (int j = 0; j < 16; ++j) {
    const auto pair = load<uint8_t>(block + 4 + j);
    out[j] = d * static_cast<float>(pair & 15) + m;
    out[j + 16] = d * static_cast<float>(pair >> 4) + m;
  }
}

void widen_iq4_nl(const std::byte* block, float* out) {
  const float d = load_f16(block);
  for (int j = 0; j < 16; ++j) {
    const auto pair = load<uint8_t>(block + 2 + j);
    out[j] = d * static_cast<float>(iq4_nl_values[pair & 15]);
    out[j + 16] = d * static_cast<float>(iq4_nl_values[pair >> 4]);
  }
}

/// Scale and minimum, 6 bits each, of the 8 parts of a q4_k or q5_k block. Byte j of the first four holds the
/// scale of part j, of the second four its minimum; their top two bits, and the halves of the last four
/// bytes, are those of part j + 4.
struct Part {
  float scale, minimum;
};
Part part_of(const std::byte* block, int part) {
  const auto at = [&](int i) { return static_cast<int>(load<uint8_t>(block + 4 + i)); };
  const int j = part & 3;
  const int scale = part < 4 ? at(j) & 63 : (at(j + 8) & 15) | (at(j) >> 6) << 4;
  const int minimum = part < 4 ? at(j + 4) & 63 : at(j + 8) >> 4 | (at(j + 4) >> 6) << 4;
  return {load_f16(block) * static_cast<float>(scale), load_f16(block + 2) * static_cast<float>(minimum)};
}

/// Parts 2i and 2i + 1 are the low and the high halves of nibbles 32i … 32i + 31; bit p of byte j of q5_k's
/// top bits is that of value j of part p.
void widen_q4_k(const std::byte* block, const std::byte* nibbles, const std::byte* top, float* out) {
  for (int p = 0; p < 8; ++p) {
    const auto [scale, minimum] = part_of(block, p);
    for (int j = 0; j < 32; ++j) {
      int q = load<uint8_t>(nibbles + p / 2 * 32 + j) >> p % 2 * 4 & 15;
      if (top) q |= (load<uint8_t>(top + j) >> p & 1) << 4;
      out[p * 32 + j] = scale * static_cast<float>(q) - minimum;
    }
  }
}

/// Each half of the block is 4 runs of 32 values: the low halves of 64 nibbles, then their high halves. Bits
/// 2r and 2r + 1 of the half's 32 bytes of top bits belong to run r. A scale serves 16 values.
void widen_q6_k(const std::byte* block, float* out) {
  const float d = load_f16(block + 208);
  for (int i = 0; i < 256; ++i) {
    const int half = i / 128, run = i / 32 % 4, j = i % 32;
    const int low = load<uint8_t>(block + half * 64 + run % 2 * 32 + j) >> run / 2 * 4 & 15;
    const int top = load<uint8_t>(block + 128 + half * 32 + j) >> 2 * run & 3;
    const float scale = d * static_cast<float>(load<int8_t>(block + 192 + i / 16));
    out[i] = scale * static_cast<float>((low | top << 4) - 32);
  }
}

void widen_block(DType type, const std::byte* block, float* out) {
  switch (type) {
    case DType::f32:
      *out = load<float>(block);
      return;
    case DType::f16:
      *out = load_f16(block);
      return;
    case DType::bf16:
      *out = bf16_to_f32(load<uint16_t>(block));
      return;
    case DType::f8_e4m3:
      *out = f8_e4m3_to_f32(load<uint8_t>(block));
      return;
    case DType::q8_0:
      widen_q8_0(block, out);
      return;
    case DType::q4_0:
      widen_q4_0(block, out);
      return;
    case DType::q4_1:
      widen_q4_1(block, out);
      return;
    case DType::iq4_nl:
      widen_iq4_nl(block, out);
      return;
    case DType::q4_k:
      widen_q4_k(block, block + 16, nullptr, out);
      return;
    case DType::q5_k:
      widen_q4_k(block, block + 48, block + 16, out);
      return;
    case DType::q6_k:
      widen_q6_k(block, out);
      return;
    case DType::i8:
      *out = static_cast<float>(load<int8_t>(block));
      return;
    case DType::i64:
      *out = static_cast<float>(load<int64_t>(block));
      return;
  }
  assert(!"every DType is handled above");
}

}  // namespace

const DTypeInfo& info(DType type) {
  assert(static_cast<size_t>(type) < dtypes.size());
  return dtypes[static_cast<size_t>(type)];
}

std::optional<uint64_t> byte_size(DType type, std::span<const int64_t> shape) {
  const DTypeInfo& element = info(type);
  const int64_t columns = shape.empty() ? 1 : shape.back();
  if (columns < 0 || columns % element.block_values != 0) return std::nullopt;
  // Blocks first, so that a quantised size near 2^64 doesn't overflow on the way to a smaller result.
  uint64_t bytes = static_cast<uint64_t>(columns) / element.block_values;
  if (__builtin_mul_overflow(bytes, uint64_t{element.block_bytes}, &bytes)) return std::nullopt;
  for (size_t i = 0; i + 1 < shape.size(); ++i) {
    if (shape[i] < 0 || __builtin_mul_overflow(bytes, static_cast<uint64_t>(shape[i]), &bytes))
      return std::nullopt;
  }
  return bytes;
}

void dequantize_row(const Tensor& tensor, int64_t row, std::span<float> out) {
  assert(row >= 0 && row < tensor.rows());
  assert(static_cast<int64_t>(out.size()) == tensor.columns());
  assert((static_cast<size_t>(row) + 1) * tensor.row_bytes() <= tensor.bytes.size());
  dequantize_row(MatrixBytes{tensor.type, tensor.columns(), tensor.bytes.data(),
                             tensor.scales.empty() ? nullptr : tensor.scales.data()},
                 row, out.data());
}

void dequantize_row(const MatrixBytes& m, int64_t row, float* out) {
  const DTypeInfo& element = info(m.type);
  const int64_t row_bytes = m.columns / element.block_values * element.block_bytes;
  const std::byte* block = m.rows + row * row_bytes;
  if (m.type == DType::f32) {
    std::memcpy(out, block, static_cast<size_t>(row_bytes));
  } else if (m.type == DType::bf16) {
    for (int64_t i = 0; i < m.columns; ++i) out[i] = bf16_to_f32(load<uint16_t>(block + 2 * i));
  } else {
    for (int64_t i = 0; i < m.columns; i += element.block_values, block += element.block_bytes)
      widen_block(m.type, block, out + i);
  }
  if (!m.scales) return;
  constexpr auto scale_bytes = static_cast<int64_t>(sizeof(float));
  if (m.type == DType::i8) {
    const auto scale = load<float>(m.scales + row * scale_bytes);
    for (int64_t i = 0; i < m.columns; ++i) out[i] *= scale;
    return;
  }
  const std::byte* scales = m.scales + row / fp8_block * fp8_blocks(m.columns) * scale_bytes;
  for (int64_t i = 0; i < m.columns; ++i) out[i] *= load<float>(scales + i / fp8_block * scale_bytes);
}

Tensor row_range(const Tensor& tensor, int64_t first, int64_t rows) {
  assert(tensor.shape.size() == 2 && first >= 0 && rows >= 0 && first + rows <= tensor.rows());
  Tensor part = tensor;
  part.shape[0] = rows;
  part.bytes = tensor.bytes.subspan(static_cast<size_t>(first) * tensor.row_bytes(),
                                    static_cast<size_t>(rows) * tensor.row_bytes());
  if (!tensor.scales.empty()) {
    assert(tensor.type == DType::i8 || first % fp8_block == 0);
    const auto bytes = [&](int64_t count) {
      return scale_count(tensor.type, count, tensor.columns()) * sizeof(float);
    };
    part.scales = tensor.scales.subspan(bytes(first), bytes(rows));
  }
  return part;
}

size_t scale_count(DType type, int64_t rows, int64_t columns) {
  assert(rows >= 0 && columns >= 0);
  if (scales_suffix(type).empty()) return 0;
  const std::vector<int64_t> shape = scales_shape(type, rows, columns);
  return static_cast<size_t>(shape[0] * shape[1]);
}

std::vector<int64_t> scales_shape(DType type, int64_t rows, int64_t columns) {
  if (type == DType::i8) return {rows, 1};
  assert(type == DType::f8_e4m3);
  return {fp8_blocks(rows), fp8_blocks(columns)};
}

std::string_view scales_suffix(DType type) {
  if (type == DType::f8_e4m3) return "_scale_inv";
  return type == DType::i8 ? "_scale" : "";
}

std::vector<int64_t> integers(const Tensor& tensor) {
  assert(tensor.type == DType::i64);
  std::vector<int64_t> values(tensor.bytes.size() / sizeof(int64_t));
  if (!values.empty()) std::memcpy(values.data(), tensor.bytes.data(), values.size() * sizeof(int64_t));
  return values;
}

float f8_e4m3_to_f32(uint8_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x80) << 24;
  const uint32_t exponent = (bits >> 3) & 15;
  const uint32_t fraction = bits & 7;
  if ((bits & 0x7f) == 0x7f) return std::bit_cast<float>(sign | 0x7fc00000u);
  if (exponent == 0) {  // zero, subnormal: fraction · 2^-9
    const float magnitude = static_cast<float>(fraction) * 0x1p-9f;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
  }
  return std::bit_cast<float>(sign | (exponent + 120) << 23 | fraction << 20);
}

}  // namespace convoy::model
