#include "model/format/quantize.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <random>

#include "files.hpp"

using namespace convoy;
using namespace convoy::model;

namespace {

constexpr DType block_types[] = {DType::q8_0, DType::q4_0, DType::q4_1, DType::q4_k};
constexpr float infinity = std::numeric_limits<float>::infinity();

std::vector<std::byte> encode(DType type, const std::vector<float>& row) {
  std::vector<std::byte> bytes(row.size() / info(type).block_values * info(type).block_bytes);
  quantize_row(type, row, bytes);
  return bytes;
}

std::vector<float> decode(DType type, const std::vector<std::byte>& bytes) {
  const auto columns = static_cast<int64_t>(bytes.size() / info(type).block_bytes * info(type).block_values);
  std::vector<float> row(static_cast<size_t>(columns));
  dequantize_row({type, {columns}, bytes, nullptr}, 0, row);
  return row;
}

std::vector<float> round_trip(DType type, const std::vector<float>& row) {
  return decode(type, encode(type, row));
}

struct Input {
  const char* name;
  std::vector<float> row;
};

/// Rows of 512 values of many sizes and shapes.
std::vector<Input> inputs() {
  std::mt19937 random(20240607);
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> uniform(-1, 1);
  const auto row = [](auto value) {
    std::vector<float> values(512);
    for (size_t i = 0; i < values.size(); ++i) values[i] = value(i);
    return values;
  };
  std::vector<Input> all{
      {"normal", row([&](size_t) { return normal(random); })},
      {"uniform", row([&](size_t) { return uniform(random); })},
      {"small, scales subnormal", row([&](size_t) { return 1e-3f * normal(random); })},
      {"large", row([&](size_t) { return 1e4f * uniform(random); })},
      {"positive", row([&](size_t) { return 2 + uniform(random); })},
      {"negative", row([&](size_t) { return -2 + uniform(random); })},
      {"blocks of many sizes",
       row([&](size_t i) { return std::ldexp(normal(random), static_cast<int>(i / 32) % 8 - 4); })},
      {"constant", row([](size_t) { return 0.3f; })},
      {"constant and negative", row([](size_t) { return -0.3f; })},
      {"two values", row([](size_t i) { return i % 3 ? 1.f : -0.25f; })},
  };
  for (const float outlier : {50.f, -50.f}) {
    Input& input = all.emplace_back("one outlier a block", row([&](size_t) { return normal(random); }));
    for (size_t i = 7; i < input.row.size(); i += 32) input.row[i] = outlier;
  }
  return all;
}

/// The largest error that a value of a block may have.
float bound(DType type, const std::vector<std::byte>& block, const float* x, float value) {
  const auto half = [&](size_t at) {
    uint16_t bits;
    std::memcpy(&bits, block.data() + at, 2);
    return f16_to_f32(bits);
  };
  const float d = std::fabs(half(0));
  switch (type) {
    case DType::q8_0:
    case DType::q4_1:
      return 0.501f * d;
    case DType::q4_0: {  // steps −8 … 7: what would be step 8 is one off
      const bool opposite = half(0) < 0 ? value < -7.5f * d : value > 7.5f * d;
      return (opposite ? 1.001f : 0.501f) * d;
    }
    default: {  // a step of the part's range, and what rounding scale and minimum to 6 bits moves
      float low = 0, high = x[0];
      for (int i = 0; i < 32; ++i) low = std::min(low, x[i]), high = std::max(high, x[i]);
      return (high - low) / 15 + 8 * d + half(2);
    }
  }
}

float square_error(const std::vector<float>& a, const std::vector<float>& b) {
  float sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return sum;
}

}  // namespace

BOOST_AUTO_TEST_CASE(every_number_of_a_plain_type_encodes_to_itself_and_midpoints_to_the_even_one) {
  const auto check = [](auto widen, auto narrow, uint32_t last, uint32_t sign) {
    for (uint32_t bits = 0; bits <= last; ++bits) {
      const float value = widen(bits);
      BOOST_REQUIRE_EQUAL(narrow(value), bits);
      BOOST_REQUIRE_EQUAL(narrow(-value), bits | sign);
      if (bits == last) continue;
      const float next = widen(bits + 1), middle = value + (next - value) / 2;  // exact in float32
      BOOST_REQUIRE_EQUAL(narrow(middle), bits + (bits & 1));
      BOOST_REQUIRE_EQUAL(narrow(std::nextafter(middle, 0.f)), bits);
      BOOST_REQUIRE_EQUAL(narrow(std::nextafter(middle, infinity)), bits + 1);
    }
  };
  check([](uint32_t b) { return f16_to_f32(static_cast<uint16_t>(b)); }, f32_to_f16, 0x7bff, 0x8000);
  check([](uint32_t b) { return bf16_to_f32(static_cast<uint16_t>(b)); }, f32_to_bf16, 0x7f7f, 0x8000);
  check([](uint32_t b) { return f8_e4m3_to_f32(static_cast<uint8_t>(b)); }, f32_to_f8_e4m3, 0x7e, 0x80);
}

BOOST_AUTO_TEST_CASE(what_a_plain_type_cannot_hold_becomes_infinity_its_largest_number_or_nan) {
  BOOST_TEST(f32_to_f16(65519.f) == 0x7bff);
  BOOST_TEST(f32_to_f16(65520.f) == 0x7c00);
  BOOST_TEST(f32_to_f16(-1e30f) == 0xfc00);
  BOOST_TEST(f32_to_bf16(std::numeric_limits<float>::max()) == 0x7f80);
  BOOST_TEST(f32_to_f8_e4m3(1e9f) == 0x7e);
  BOOST_TEST(f32_to_f8_e4m3(-infinity) == 0xfe);
  BOOST_TEST(std::isnan(f16_to_f32(f32_to_f16(std::nanf("")))));
  BOOST_TEST(std::isnan(bf16_to_f32(f32_to_bf16(std::bit_cast<float>(0x7f800001u)))));
  BOOST_TEST(std::isnan(f8_e4m3_to_f32(f32_to_f8_e4m3(std::nanf("")))));
}

BOOST_AUTO_TEST_CASE(plain_rows_are_the_nearest_numbers) {
  const std::vector<float> row{1, -0.1f, 3.14159f, 0};
  BOOST_TEST(round_trip(DType::f32, row) == row, boost::test_tools::per_element());
  for (size_t i = 0; i < row.size(); ++i) {
    BOOST_TEST(round_trip(DType::f16, row)[i] == f16_to_f32(f32_to_f16(row[i])));
    BOOST_TEST(round_trip(DType::bf16, row)[i] == bf16_to_f32(f32_to_bf16(row[i])));
  }
}

BOOST_AUTO_TEST_CASE(every_value_of_every_block_comes_back_within_the_bound_of_its_type) {
  for (const DType type : block_types) {
    for (const auto& [name, row] : inputs()) {
      const size_t values = info(type).block_values;
      for (size_t at = 0; at < row.size(); at += values) {
        const std::vector<float> x(row.begin() + static_cast<ptrdiff_t>(at),
                                   row.begin() + static_cast<ptrdiff_t>(at + values));
        const auto block = encode(type, x);
        const auto back = decode(type, block);
        for (size_t i = 0; i < values; ++i)
          BOOST_REQUIRE_MESSAGE(
              std::fabs(back[i] - x[i]) <= bound(type, block, &x[i / 32 * 32], x[i]),
              info(type).name << ", " << name << ": " << x[i] << " came back as " << back[i]);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(a_row_is_its_blocks_one_after_the_other) {
  for (const DType type : block_types) {
    const std::vector<float> row = inputs().front().row;
    const auto whole = encode(type, row);
    std::vector<std::byte> parts;
    const auto values = static_cast<ptrdiff_t>(info(type).block_values);
    for (auto at = row.begin(); at != row.end(); at += values) {
      const auto part = encode(type, {at, at + values});
      parts.insert(parts.end(), part.begin(), part.end());
    }
    BOOST_TEST((whole == parts), info(type).name);
  }
}

BOOST_AUTO_TEST_CASE(what_a_block_holds_exactly_comes_back_exactly) {
  std::mt19937 random(7);
  const auto half = [&] { return static_cast<uint16_t>((8 + random() % 5) << 10 | random() % 1024); };
  for (const DType type : block_types) {
    for (int round = 0; round < 200; ++round) {
      std::vector<std::byte> block(info(type).block_bytes);
      for (std::byte& b : block) b = std::byte(random());
      const uint16_t head[2] = {half(), half()};
      std::memcpy(block.data(), head, type == DType::q8_0 || type == DType::q4_0 ? 2 : 4);
      // Every part reaches both ends of its steps, and one part both ends of the scales.
      if (type == DType::q8_0) block[2] = std::byte{127}, block[3] = std::byte(-127);
      for (size_t i = 2; i < block.size() && type == DType::q8_0; ++i)
        if (block[i] == std::byte{0x80}) block[i] = std::byte{0};
      if (type == DType::q4_0) block[2] = std::byte{0xf0};
      if (type == DType::q4_1) block[4] = std::byte{0xf0};
      if (type == DType::q4_k) {
        block[4] |= std::byte{63}, block[8] |= std::byte{63};
        for (size_t i = 5; i < 8; ++i) block[i] |= std::byte{1};      // no scale is zero,
        for (size_t i = 12; i < 16; ++i) block[i] |= std::byte{0x1};  // where q would be lost
        for (size_t i = 16; i < block.size(); i += 32)
          block[i] = std::byte{0}, block[i + 1] = std::byte{0xff};
      }
      const auto values = decode(type, block);
      const auto back = round_trip(type, values);
      for (size_t i = 0; i < values.size(); ++i)
        BOOST_REQUIRE_MESSAGE(back[i] == values[i], info(type).name << " " << back[i] << " " << values[i]);
    }
  }
}

BOOST_AUTO_TEST_CASE(zeros_come_back_as_zeros) {
  for (const DType type : block_types)
    for (const float x : round_trip(type, std::vector<float>(512))) BOOST_TEST(x == 0);
  std::vector<std::byte> bytes(4);
  std::vector<float> scale(1);
  quantize_block_fp8(std::vector<float>(4), 2, 2, bytes, scale);
  BOOST_TEST(scale[0] == 1);
  for (const std::byte b : bytes) BOOST_TEST(f8_e4m3_to_f32(static_cast<uint8_t>(b)) == 0);
}

BOOST_AUTO_TEST_CASE(numbers_next_to_nothing_are_lost_without_harm) {
  for (const DType type : block_types)
    for (const float x : round_trip(type, std::vector<float>(512, 1e-38f))) BOOST_TEST(std::fabs(x) < 1e-6f);
}

BOOST_AUTO_TEST_CASE(the_search_of_q4_k_beats_steps_laid_over_the_range) {
  for (const char* name : {"normal", "uniform", "blocks of many sizes"}) {
    const auto all = inputs();
    const auto& row = std::ranges::find(all, std::string_view(name), &Input::name)->row;
    const float plain = square_error(round_trip(DType::q4_1, row), row);  // 16-bit scales, of 32 values too
    BOOST_TEST(square_error(round_trip(DType::q4_k, row), row) < 0.95f * plain, name);
  }
}

BOOST_AUTO_TEST_CASE(what_is_not_finite_or_too_large_is_refused_with_its_column) {
  for (const DType type : {DType::f16, DType::bf16, DType::q8_0, DType::q4_0, DType::q4_1, DType::q4_k}) {
    for (const float bad : {std::nanf(""), infinity, -infinity, 3.4e38f}) {
      std::vector<float> row(512, 1);
      row[300] = bad;
      CHECK_INPUT_ERROR(encode(type, row), "column 300");
      CHECK_INPUT_ERROR(encode(type, row), std::string(info(type).name));
    }
  }
  std::vector<std::byte> bytes(6);
  std::vector<float> scale(1);
  for (const float bad : {std::nanf(""), infinity})
    CHECK_INPUT_ERROR(quantize_block_fp8(std::vector<float>{1, 2, 3, 4, 5, bad}, 2, 3, bytes, scale),
                      "column 2");
  for (const DType type : {DType::i64, DType::q6_k, DType::iq4_nl, DType::f8_e4m3})
    BOOST_TEST(!can_encode(type));
}

BOOST_AUTO_TEST_CASE(the_largest_values_of_a_type_keep_finite_scales) {
  for (const auto& [type, largest] : {std::pair{DType::f16, 65504.f},
                                      {DType::q8_0, 8.3e6f},
                                      {DType::q4_0, 5.2e5f},
                                      {DType::q4_1, 65504.f},
                                      {DType::q4_k, 2e6f}}) {
    std::vector<float> row(512, largest);
    for (size_t i = 0; i < row.size(); i += 2) row[i] = -largest;
    const auto back = round_trip(type, row);
    for (size_t i = 0; i < row.size(); ++i) BOOST_REQUIRE_SMALL(back[i] / row[i] - 1, 0.13f);
  }
}

BOOST_AUTO_TEST_CASE(an_8_bit_matrix_has_a_scale_for_each_block_and_smaller_blocks_at_its_edges) {
  constexpr int64_t rows = 130, columns = 300;
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  std::vector<float> matrix(rows * columns);
  for (float& x : matrix) x = normal(random);
  matrix[129 * columns + 299] = 1000;  // in the last block, of 2 × 44
  std::vector<std::byte> bytes(matrix.size());
  std::vector<float> scales(2 * 3);
  quantize_block_fp8(matrix, rows, columns, bytes, scales);
  for (int64_t b = 0; b < 6; ++b) {
    float largest = 0;
    for (int64_t r = b / 3 * 128; r < std::min<int64_t>(rows, b / 3 * 128 + 128); ++r) {
      for (int64_t c = b % 3 * 128; c < std::min<int64_t>(columns, b % 3 * 128 + 128); ++c) {
        const float x = matrix[r * columns + c];
        const float code = f8_e4m3_to_f32(static_cast<uint8_t>(bytes[r * columns + c]));
        largest = std::max(largest, std::fabs(x));
        // Half of the last of 4 significant bits, or of the smallest subnormal number.
        const float half_step = std::max(std::fabs(x) / 16, scales[b] * 0x1p-10f);
        BOOST_REQUIRE_LE(std::fabs(code * scales[b] - x), half_step * 1.0001f);
      }
    }
    BOOST_TEST(scales[b] == largest / 448);
  }
  BOOST_TEST(scales[5] == 1000.f / 448);
}

BOOST_AUTO_TEST_CASE(an_8_bit_matrix_of_representable_values_comes_back_exactly) {
  std::vector<float> matrix;
  for (uint32_t bits = 0; bits < 0x100; ++bits)
    if ((bits & 0x7f) != 0x7f) matrix.push_back(0.0078125f * f8_e4m3_to_f32(static_cast<uint8_t>(bits)));
  std::vector<std::byte> bytes(matrix.size());
  std::vector<float> scales(2);
  const auto columns = static_cast<int64_t>(matrix.size()) / 2;
  quantize_block_fp8(matrix, 2, columns, bytes, {scales.data(), 1});
  for (size_t i = 0; i < matrix.size(); ++i)
    BOOST_TEST(f8_e4m3_to_f32(static_cast<uint8_t>(bytes[i])) * scales[0] == matrix[i]);
}

BOOST_AUTO_TEST_CASE(a_row_of_8_bit_integers_is_within_half_a_step_and_its_scale_is_one_that_bf16_holds) {
  for (const Input& input : inputs()) {
    std::vector<std::byte> bytes(input.row.size());
    const float scale = quantize_row_i8(input.row, bytes);
    BOOST_TEST(bf16_to_f32(f32_to_bf16(scale)) == scale, input.name);
    std::vector<float> back(input.row.size());
    Tensor tensor{DType::i8, {1, static_cast<int64_t>(back.size())}, bytes, nullptr};
    tensor.scales = std::as_bytes(std::span(&scale, 1));
    dequantize_row(tensor, 0, back);
    for (size_t i = 0; i < back.size(); ++i)
      BOOST_REQUIRE_LE(std::fabs(back[i] - input.row[i]), scale * 0.5001f);
  }
  std::vector<std::byte> byte(1);
  BOOST_TEST(quantize_row_i8(std::vector{0.f}, byte) == 1);
  BOOST_TEST(quantize_row_i8(std::vector{1e-44f}, byte) == 1);  // no scale that could be divided by
  BOOST_TEST(static_cast<int>(byte[0]) == 0);
  CHECK_INPUT_ERROR(quantize_row_i8(std::vector{infinity}, byte), "I8");
}
