#include <boost/test/unit_test.hpp>
#include <cmath>
#include <limits>

#include "test/cpu/inputs.hpp"

using namespace convoy::gpu;
using namespace convoy::gpu::test;

namespace {

struct Shape {
  int64_t outputs, columns, rows;
};
/// A whole number of tiles, one short of it, one more; few and many blocks; both ways of reading weights; for
/// float weights rows that are no whole lanes.
std::vector<Shape> shapes(DType type) {
  std::vector<Shape> all;
  for (const Shape& shape : {Shape{16, 32, 1},
                             {15, 64, 2},
                             {17, 96, 5},
                             {1, 576, 3},
                             {64, 576, 4},
                             {33, 1536, 19},
                             {48, 608, 70},
                             {17, 256, 1},
                             {15, 512, 3},
                             {16, 768, 4},
                             {34, 512, 69},
                             {18, 45, 3},
                             {7, 1030, 9}})
    if (shape.columns % convoy::model::info(type).block_values == 0) all.push_back(shape);
  return all;
}

std::vector<float> run(const KernelTable& kernels, DType type, const std::vector<std::byte>& weights,
                       const Shape& shape, const std::vector<float>& values, const float* bias = nullptr,
                       const std::byte* scales = nullptr) {
  Row row(values, shape.rows);
  row.quantize(kernels);
  std::vector<float> out(static_cast<size_t>(shape.rows * shape.outputs), -1);
  std::vector<std::byte> scratch(linear_scratch_bytes(shape.columns));
  const auto taken = as_taken(type, weights, shape.outputs);
  Product p = product(type, taken, shape.outputs, out);
  p.bias = bias, p.scales = scales;
  kernels.linear(p, 0, shape.outputs, row.x, scratch.data());
  return out;
}

/// The same product in double precision from the quantised activations and the decoded weights, and the sum
/// of its terms' magnitudes, which rounding errors are measured against.
std::pair<double, double> exact(DType type, const std::vector<std::byte>& weights, const Shape& shape,
                                const Row& row, int64_t r, int64_t o) {
  convoy::model::Tensor tensor{type, {shape.outputs, shape.columns}, weights, nullptr};
  std::vector<float> w(static_cast<size_t>(shape.columns));
  convoy::model::dequantize_row(tensor, o, w);
  double sum = 0, magnitude = 0;
  for (int64_t c = 0; c < shape.columns; ++c) {
    const int64_t i = r * shape.columns + c;
    const bool plain = convoy::model::info(type).block_values == 1;
    const double x = plain ? row.values[i] : double(row.d[i / 32]) * row.q[i];
    sum += x * w[c];
    magnitude += std::fabs(x * w[c]);
  }
  return {sum, magnitude};
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_product_is_the_bias_and_the_sum_over_decoded_weights_and_quantised_activations) {
  Random random;
  for (DType type : weight_types) {
    for (const Shape& shape : shapes(type)) {
      const auto weights = random.weights(type, shape.outputs, shape.columns);
      const auto values = random.values(shape.rows * shape.columns), bias = random.values(shape.outputs);
      Row row(values, shape.rows);
      row.quantize(scalar_kernels());
      for (const KernelTable* kernels : runnable_kernels()) {
        const auto out = run(*kernels, type, weights, shape, values, bias.data());
        double worst = 0;
        for (int64_t r = 0; r < shape.rows; ++r) {
          for (int64_t o = 0; o < shape.outputs; ++o) {
            const auto [sum, magnitude] = exact(type, weights, shape, row, r, o);
            const double expected = sum + bias[o];
            worst = std::max(worst, std::fabs(out[r * shape.outputs + o] - expected) /
                                        (magnitude + std::fabs(double(bias[o]))));
          }
        }
        BOOST_TEST(worst <= 1e-6, kernels->name << " " << convoy::model::info(type).name << " "
                                                << shape.outputs << "×" << shape.columns << ", " << shape.rows
                                                << " rows: " << worst);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(every_instruction_set_gives_the_bits_of_the_scalar_kernels) {
  Random random;
  for (DType type : weight_types) {
    for (const Shape& shape : shapes(type)) {
      const auto weights = random.weights(type, shape.outputs, shape.columns);
      const auto values = random.values(shape.rows * shape.columns), bias = random.values(shape.outputs);
      const auto expected = run(scalar_kernels(), type, weights, shape, values, bias.data());
      for (const KernelTable* kernels : runnable_kernels()) {
        BOOST_TEST(same_bits(run(*kernels, type, weights, shape, values, bias.data()), expected),
                   kernels->name << " " << convoy::model::info(type).name << " " << shape.outputs << "×"
                                 << shape.columns);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(a_row_of_a_product_is_the_same_among_any_number_of_rows) {
  constexpr int64_t rows_max = 70;
  Random random;
  for (DType type : weight_types) {
    const bool plain = convoy::model::info(type).block_values == 1;
    const Shape all{17, plain ? 300 : 256, rows_max};
    const auto weights = random.weights(type, all.outputs, all.columns);
    const auto values = random.values(all.rows * all.columns);
    const auto expected = run(scalar_kernels(), type, weights, all, values);
    for (const KernelTable* kernels : runnable_kernels()) {
      if (kernels == &scalar_kernels()) continue;
      for (int64_t rows = 1; rows <= rows_max; ++rows) {
        const auto out = run(*kernels, type, weights, {all.outputs, all.columns, rows},
                             {values.begin(), values.begin() + rows * all.columns});
        BOOST_TEST(same_bits(out, {expected.begin(), expected.begin() + rows * all.outputs}),
                   kernels->name << " " << convoy::model::info(type).name << ", " << rows << " rows");
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(weights_at_the_ends_of_their_range_do_not_saturate) {
  struct Case {
    DType type;
    int fill;
    size_t head, tail = 0;  // bytes of a block that are scales
  };
  for (const auto& [type, fill, head, tail] : {Case{DType::q8_0, 0x80, 2},
                                               {DType::q8_0, 0x7f, 2},
                                               {DType::q4_0, 0xff, 2},
                                               {DType::q4_1, 0xff, 4},
                                               {DType::iq4_nl, 0x00, 2},
                                               {DType::q4_k, 0xff, 4},
                                               {DType::q5_k, 0xff, 4},
                                               {DType::q6_k, 0xff, 0, 18},
                                               {DType::q6_k, 0x80, 0, 2},
                                               {DType::q6_k, 0x00, 0, 18}}) {
    Random random;
    const Shape shape{16, 256, 6};
    auto weights = random.weights(type, shape.outputs, shape.columns);
    const size_t block = convoy::model::info(type).block_bytes;
    for (size_t i = 0; i < weights.size(); ++i) {
      if (i % block >= head && i % block < block - tail) weights[i] = static_cast<std::byte>(fill);
    }
    const std::vector<float> values(static_cast<size_t>(shape.rows * shape.columns), 3.f);
    Row row(values, shape.rows);
    row.quantize(scalar_kernels());
    for (const KernelTable* kernels : runnable_kernels()) {
      const auto out = run(*kernels, type, weights, shape, values);
      for (int64_t o = 0; o < shape.outputs; ++o) {
        const auto [sum, magnitude] = exact(type, weights, shape, row, 0, o);
        BOOST_TEST(std::fabs(out[o] - sum) <= 1e-6 * magnitude,
                   kernels->name << " " << fill << " output " << o);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(a_row_gives_the_same_bits_alone_and_among_others) {
  Random random;
  const Shape shape{40, 768, 70};
  const auto values = random.values(shape.rows * shape.columns);
  for (DType type : weight_types) {
    const auto weights = random.weights(type, shape.outputs, shape.columns);
    for (const KernelTable* kernels : runnable_kernels()) {
      if (kernels == &scalar_kernels()) continue;  // slow, and equal to the others by the test above
      const auto all = run(*kernels, type, weights, shape, values);
      for (int64_t rows = 1; rows < shape.rows; ++rows) {
        const Shape some{shape.outputs, shape.columns, rows};
        const int64_t first = shape.rows - rows;  // the last ones, so that a row's place differs too
        const auto out =
            run(*kernels, type, weights, some, {values.begin() + first * shape.columns, values.end()});
        BOOST_TEST(same_bits(out, {all.begin() + first * shape.outputs, all.end()}),
                   kernels->name << " " << convoy::model::info(type).name << " " << rows << " rows");
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(quantised_activations_are_within_half_a_step) {
  Random random;
  for (const KernelTable* kernels : runnable_kernels()) {
    Row row(random.values(4 * 96), 4);
    row.quantize(*kernels);
    for (size_t i = 0; i < row.values.size(); ++i)
      BOOST_TEST(std::fabs(row.values[i] - row.d[i / 32] * row.q[i]) <= 0.5001f * row.d[i / 32]);
    for (size_t b = 0; b < row.values.size() / 32; ++b) {
      int32_t sum = 0, low = 0;
      for (size_t i = 0; i < 32; ++i) sum += row.q[b * 32 + i], low += i < 16 ? row.q[b * 32 + i] : 0;
      BOOST_TEST(row.sum[b] == sum);
      BOOST_TEST(row.sum_low[b] == low);
      BOOST_TEST(row.sum_high[b] == sum - low);
      BOOST_TEST(row.s[b] == row.d[b] * static_cast<float>(sum));
    }
  }
}

BOOST_AUTO_TEST_CASE(packed_blocks_come_back_as_they_were_stored) {
  Random random;
  for (DType type : weight_types) {
    if (!quantized(type)) continue;
    const int64_t rows = 35, blocks = 3, block_bytes = convoy::model::info(type).block_bytes;
    const auto stored = random.weights(type, rows, blocks * convoy::model::info(type).block_values);
    const auto packed = as_taken(type, stored, rows);
    BOOST_TEST(packed.size() == 48u * blocks * block_bytes);
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t block = 0; block < blocks; ++block) {
        std::vector<std::byte> one(block_bytes_max);
        unpack_block(type, packed.data(), blocks * block_bytes, row, block, one.data());
        BOOST_TEST(std::equal(one.begin(), one.begin() + block_bytes,
                              stored.begin() + (row * blocks + block) * block_bytes),
                   convoy::model::info(type).name << " row " << row);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(what_is_not_a_number_spoils_its_row_and_no_other) {
  Random random;
  const Shape shape{16, 256, 3};
  for (DType type : weight_types) {
    const auto weights = random.weights(type, shape.outputs, shape.columns);
    for (float bad :
         {std::nanf(""), std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()}) {
      auto values = random.values(shape.rows * shape.columns);
      values[shape.columns + 40] = bad;
      for (const KernelTable* kernels : runnable_kernels()) {
        const auto out = run(*kernels, type, weights, shape, values);
        for (int64_t o = 0; o < shape.outputs; ++o) {
          BOOST_TEST(std::isfinite(out[o]));
          BOOST_TEST(!std::isfinite(out[shape.outputs + o]));
          BOOST_TEST(std::isfinite(out[2 * shape.outputs + o]));
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(every_8_bit_weight_is_its_number_in_every_instruction_set) {
  // One output a code, next to 255 zeros: the product with 1 is the number itself.
  std::vector<std::byte> weights(256 * 16);
  for (size_t code = 0; code < 256; ++code) weights[code * 16 + code % 16] = static_cast<std::byte>(code);
  for (int64_t rows : {1, 6}) {
    for (const KernelTable* kernels : runnable_kernels()) {
      const auto out = run(*kernels, DType::f8_e4m3, weights, {256, 16, rows},
                           std::vector<float>(static_cast<size_t>(16 * rows), 1.f));
      for (size_t code = 0; code < 256; ++code) {
        const float value = convoy::model::f8_e4m3_to_f32(static_cast<uint8_t>(code));
        BOOST_TEST((std::isnan(value) ? std::isnan(out[code]) : out[code] == value),
                   kernels->name << " " << code);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(weights_of_8_bits_with_scales_give_the_bits_of_their_float32_values) {
  Random random;
  for (const DType type : {DType::f8_e4m3, DType::i8}) {
    // Blocks of 128 by 128 that are cut off on both sides, and rows as stored and widened.
    for (const Shape& shape : {Shape{200, 160, 1}, {130, 300, 3}, {17, 128, 4}, {200, 301, 7}}) {
      const auto weights = random.weights(type, shape.outputs, shape.columns);
      const auto scales =
          random.values(static_cast<int64_t>(scale_count(type, shape.outputs, shape.columns)));
      convoy::model::Tensor tensor{type, {shape.outputs, shape.columns}, weights, nullptr};
      tensor.scales = std::as_bytes(std::span(scales));
      std::vector<std::byte> wide(static_cast<size_t>(shape.outputs * shape.columns) * sizeof(float));
      for (int64_t o = 0; o < shape.outputs; ++o)
        convoy::model::dequantize_row(
            tensor, o,
            {reinterpret_cast<float*>(wide.data()) + o * shape.columns, static_cast<size_t>(shape.columns)});
      const auto values = random.values(shape.rows * shape.columns);
      const auto expected = run(scalar_kernels(), DType::f32, wide, shape, values);
      for (const KernelTable* kernels : runnable_kernels())
        BOOST_TEST(
            same_bits(run(*kernels, type, weights, shape, values, nullptr, tensor.scales.data()), expected),
            kernels->name << " " << convoy::model::info(type).name << " " << shape.outputs << "×"
                          << shape.columns << ", " << shape.rows << " rows");
    }
  }
}

BOOST_AUTO_TEST_CASE(blocks_of_zeros_and_of_next_to_nothing_are_zero) {
  for (const KernelTable* kernels : runnable_kernels()) {
    Row row(std::vector<float>(32, 1e-38f), 1);
    row.quantize(*kernels);
    BOOST_TEST(row.d[0] == 0);
    BOOST_TEST(row.s[0] == 0);
    for (int8_t q : row.q) BOOST_TEST(q == 0);
  }
}

BOOST_AUTO_TEST_CASE(a_gate_is_silu_times_the_product) {
  Random random;
  const Shape shape{20, 64, 3};
  const auto weights = random.weights(DType::q8_0, shape.outputs, shape.columns);
  const auto taken = as_taken(DType::q8_0, weights, shape.outputs);
  const auto values = random.values(shape.rows * shape.columns);
  auto gates = random.values(shape.rows * shape.outputs);
  for (float& g : gates) g *= 20;
  gates[0] = -200, gates[1] = 200, gates[2] = 0;
  std::vector<float> expected;
  for (const KernelTable* kernels : runnable_kernels()) {
    const auto plain = run(*kernels, DType::q8_0, weights, shape, values);
    Row row(values, shape.rows);
    row.quantize(*kernels);
    auto out = gates;
    std::vector<std::byte> scratch(linear_scratch_bytes(shape.columns));
    Product p = product(DType::q8_0, taken, shape.outputs, out);
    p.gate = true;
    kernels->linear(p, 0, shape.outputs, row.x, scratch.data());
    for (size_t i = 0; i < out.size(); ++i) {
      const double silu = gates[i] / (1 + std::exp(-double(gates[i])));
      BOOST_TEST(std::fabs(out[i] - silu * plain[i]) <= 1e-6 * std::fabs(silu * plain[i]) + 1e-30, gates[i]);
    }
    if (expected.empty()) expected = out;
    BOOST_TEST(same_bits(out, expected), kernels->name);
  }
}

BOOST_AUTO_TEST_CASE(a_norm_divides_by_the_root_of_the_mean_square) {
  Random random;
  for (int64_t width : {1, 16, 50, 576}) {
    const auto x = random.values(width), delta = random.values(width), w = random.values(width);
    std::vector<float> expected;
    for (const KernelTable* kernels : runnable_kernels()) {
      auto sum = x;
      std::vector<float> h(x.size());
      kernels->add_norm(sum.data(), delta.data(), w.data(), 1e-5f, h.data(), width);
      double squares = 0;
      for (size_t i = 0; i < x.size(); ++i) {
        BOOST_TEST(sum[i] == x[i] + delta[i]);
        squares += double(sum[i]) * sum[i];
      }
      for (size_t i = 0; i < x.size(); ++i) {
        const double exact = sum[i] / std::sqrt(squares / double(width) + 1e-5) * w[i];
        BOOST_TEST(std::fabs(h[i] - exact) <= 1e-6 * std::fabs(exact));
      }
      if (expected.empty()) expected = h;
      BOOST_TEST(same_bits(h, expected), kernels->name);
    }
  }
}
