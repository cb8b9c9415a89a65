#pragma once
// Random weights and activations for the tests of the CPU kernels, and the list of kernels that can run here.

#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "gpu/cpu/kernels.hpp"
#include "gpu/cpu/kv_values.hpp"
#include "model/tensor.hpp"

namespace convoy::gpu::test {

using model::DType;

inline constexpr DType weight_types[] = {DType::q4_1, DType::q4_0, DType::q8_0,    DType::iq4_nl,
                                         DType::q4_k, DType::q5_k, DType::q6_k,    DType::f32,
                                         DType::f16,  DType::bf16, DType::f8_e4m3, DType::i8};

inline constexpr DType narrow_kv_types[] = {DType::bf16, DType::f16, DType::f8_e4m3};

/// A cache's values as it holds them in that type, which they are rounded to.
inline std::vector<std::byte> narrowed(std::vector<float>& values, DType type) {
  const auto count = static_cast<int64_t>(values.size());
  std::vector<std::byte> bytes(values.size() * model::info(type).block_bytes);
  store_kv(values.data(), count, type, bytes.data());
  load_kv(bytes.data(), count, type, values.data());
  return bytes;
}

inline std::vector<const KernelTable*> runnable_kernels() {
  std::vector<const KernelTable*> tables{&scalar_kernels()};
  if (supports_avx2()) tables.push_back(&avx2_kernels());
  if (supports_avx512vnni()) tables.push_back(&avx512vnni_kernels());
  return tables;
}

struct Random {
  std::mt19937_64 engine{20240607};

  uint64_t below(uint64_t n) { return engine() % n; }
  float normal() { return std::normal_distribution<float>()(engine); }
  std::vector<float> values(int64_t n) {
    std::vector<float> v(static_cast<size_t>(n));
    for (float& x : v) x = normal();
    return v;
  }
  /// Half precision between 2^-7 and 2^-2, either sign.
  uint16_t half() { return static_cast<uint16_t>(below(2) << 15 | (8 + below(5)) << 10 | below(1024)); }

  /// [rows, columns] as a file holds them. Block bytes take every value; scales are moderate.
  std::vector<std::byte> weights(DType type, int64_t rows, int64_t columns) {
    const model::DTypeInfo& i = model::info(type);
    std::vector<std::byte> bytes(static_cast<size_t>(rows * columns / i.block_values * i.block_bytes));
    const auto put = [](std::byte* at, auto value) { std::memcpy(at, &value, sizeof value); };
    for (size_t at = 0; at < bytes.size(); at += i.block_bytes) {
      std::byte* block = &bytes[at];
      for (size_t b = 0; b < i.block_bytes; ++b) block[b] = static_cast<std::byte>(below(256));
      if (type == DType::f32) put(block, normal());
      if (type == DType::bf16)
        put(block, static_cast<uint16_t>(below(2) << 15 | (120 + below(6)) << 7 | below(128)));
      if (type == DType::f8_e4m3)
        put(block, static_cast<uint8_t>(below(2) << 7 | below(0x7f)));  // all but NaN
      if (i.block_values > 1 || type == DType::f16) put(block + (type == DType::q6_k ? 208 : 0), half());
      if (type == DType::q4_1 || type == DType::q4_k || type == DType::q5_k) put(block + 2, half());
    }
    return bytes;
  }
};

/// Activations with room for their quantised form.
struct Row {
  std::vector<float> values, d, s;
  std::vector<int8_t> q;
  std::vector<int32_t> sum, sum_low, sum_high;
  Activations x;

  Row(std::vector<float> v, int64_t rows) : values(std::move(v)) {
    const size_t blocks = values.size() / 32 + 1;
    q.resize(values.size()), d.resize(blocks), s.resize(blocks);
    sum.resize(blocks), sum_low.resize(blocks), sum_high.resize(blocks);
    x = {.values = values.data(),
         .q = q.data(),
         .d = d.data(),
         .s = s.data(),
         .sum = sum.data(),
         .sum_low = sum_low.data(),
         .sum_high = sum_high.data(),
         .rows = rows,
         .columns = static_cast<int64_t>(values.size()) / rows};
  }
  Row(const Row&) = delete;

  void quantize(const KernelTable& kernels) {
    for (int64_t r = 0; r < x.rows && x.columns % 32 == 0; ++r) kernels.quantize_row(x, r);
  }
};

/// What kernels take of [rows, columns] as a file holds them.
inline std::vector<std::byte> as_taken(DType type, const std::vector<std::byte>& stored, int64_t rows) {
  if (!quantized(type)) return stored;
  const int64_t row_bytes = static_cast<int64_t>(stored.size()) / rows;
  std::vector<std::byte> packed(packed_bytes(rows, row_bytes));
  for (int64_t row = 0; row < rows; row += output_tile)
    pack_tile(type, stored.data() + row * row_bytes, std::min(output_tile, rows - row), row_bytes,
              packed.data() + row * row_bytes);
  return packed;
}

/// weights: as_taken().
inline Product product(DType type, const std::vector<std::byte>& weights, int64_t outputs,
                       std::vector<float>& out) {
  Product p;
  p.type = type, p.weights = weights.data(), p.outputs = outputs, p.out = out.data();
  const int64_t tiles = (outputs + output_tile - 1) / output_tile;
  p.row_bytes = static_cast<int64_t>(weights.size()) / (quantized(type) ? tiles * output_tile : outputs);
  return p;
}

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace convoy::gpu::test
