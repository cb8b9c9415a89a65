#include "model/tensor.hpp"

#include <bit>
#include <cmath>
#include <limits>

#include "files.hpp"
#include "model/format/gguf.hpp"
#include "model/format/safetensors.hpp"

using namespace convoy;
using namespace convoy::model;
using convoy::test::raw;

namespace {

Tensor tensor_of(DType type, std::vector<int64_t> shape, const std::string& bytes) {
  BOOST_REQUIRE(byte_size(type, shape) == bytes.size());
  auto file = test::in_memory(bytes);
  const auto view = file->bytes();
  return {type, std::move(shape), view, std::move(file)};
}

std::vector<float> row_of(const Tensor& tensor, int64_t row) {
  std::vector<float> out(static_cast<size_t>(tensor.columns()));
  dequantize_row(tensor, row, out);
  return out;
}

constexpr uint16_t half_2 = 0x4000, half_minus_half = 0xb800;

}  // namespace

BOOST_AUTO_TEST_CASE(half_precision_numbers_of_every_kind_widen_exactly) {
  BOOST_TEST(f16_to_f32(0x3c00) == 1.0f);
  BOOST_TEST(f16_to_f32(0xc000) == -2.0f);
  BOOST_TEST(f16_to_f32(0x7bff) == 65504.0f);
  BOOST_TEST(f16_to_f32(0x0400) == std::ldexp(1.0f, -14));  // the smallest normal number
  BOOST_TEST(f16_to_f32(0x0001) == std::ldexp(1.0f, -24));  // the smallest subnormal
  BOOST_TEST(f16_to_f32(0x83ff) == -std::ldexp(1023.0f, -24));
  BOOST_TEST(std::signbit(f16_to_f32(0x8000)));
  BOOST_TEST(f16_to_f32(0x7c00) == std::numeric_limits<float>::infinity());
  BOOST_TEST(f16_to_f32(0xfc00) == -std::numeric_limits<float>::infinity());
  BOOST_TEST(std::isnan(f16_to_f32(0x7e01)));
}

BOOST_AUTO_TEST_CASE(every_half_precision_number_agrees_with_its_definition) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const int exponent = (bits >> 10) & 31;
    const auto fraction = static_cast<double>(bits & 1023);
    if (exponent == 31) continue;  // infinities and NaN are above
    const double magnitude =
        exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
    BOOST_REQUIRE_EQUAL(f16_to_f32(static_cast<uint16_t>(bits)), bits & 0x8000 ? -magnitude : magnitude);
  }
}

BOOST_AUTO_TEST_CASE(every_8_bit_number_agrees_with_its_definition) {
  for (uint32_t bits = 0; bits < 0x100; ++bits) {
    const float value = f8_e4m3_to_f32(static_cast<uint8_t>(bits));
    const int exponent = (bits >> 3) & 15;
    BOOST_TEST(std::signbit(value) == (bits >= 0x80));
    if ((bits & 0x7f) == 0x7f) {
      BOOST_TEST(std::isnan(value));
      continue;
    }
    const double magnitude =
        exponent == 0 ? std::ldexp(bits & 7, -9) : std::ldexp(8 + (bits & 7), exponent - 10);
    BOOST_TEST(std::fabs(value) == magnitude);
  }
  BOOST_TEST(f8_e4m3_to_f32(0x7e) == 448.0f);
  BOOST_TEST(f8_e4m3_to_f32(0x38) == 1.0f);
}

BOOST_AUTO_TEST_CASE(an_8_bit_tensor_of_safetensors_widens_a_byte_a_value) {
  const std::string header = R"({"w":{"dtype":"F8_E4M3","shape":[2,3],"data_offsets":[0,6]}})";
  const auto file = SafetensorsFile::parse(test::in_memory(test::counted(header) + "\x38\x7e\xfe\x01\xb8 "));
  const Tensor& tensor = file.tensor("w");
  BOOST_TEST((tensor.type == DType::f8_e4m3));
  BOOST_TEST(row_of(tensor, 0) == (std::vector{1.0f, 448.0f, -448.0f}), boost::test_tools::per_element());
  BOOST_TEST(row_of(tensor, 1) == (std::vector{0x1p-9f, -1.0f, 0.125f}), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(every_block_widens_to_the_bits_of_the_formats_own_decoder) {
  const GgufFile file = GgufFile::open(test::source_dir() / "test/golden/quants/blocks.gguf");
  for (const DType type :
       {DType::q8_0, DType::q4_0, DType::q4_1, DType::iq4_nl, DType::q4_k, DType::q5_k, DType::q6_k})
    BOOST_TEST_CONTEXT(info(type).name) {
      const auto tensor = [&](const char* kind) {
        const auto found = file.tensors.find(std::string(info(type).name) + kind);
        BOOST_REQUIRE(found != file.tensors.end());
        return found->second;
      };
      const Tensor blocks = tensor(".blocks"), values = tensor(".values");
      BOOST_REQUIRE((blocks.type == type && values.type == DType::f32 && blocks.shape == values.shape));
      for (int64_t r = 0; r < blocks.rows(); ++r) {
        const auto own = row_of(blocks, r), expected = row_of(values, r);
        for (size_t i = 0; i < own.size(); ++i)
          BOOST_REQUIRE_EQUAL(std::bit_cast<uint32_t>(own[i]), std::bit_cast<uint32_t>(expected[i]));
      }
    }
}

BOOST_AUTO_TEST_CASE(plain_rows_widen_to_float32) {
  const Tensor f32 = tensor_of(DType::f32, {2, 2}, raw(1.5f) + raw(-2.0f) + raw(0.25f) + raw(1e30f));
  BOOST_TEST(row_of(f32, 0) == (std::vector{1.5f, -2.0f}), boost::test_tools::per_element());
  BOOST_TEST(row_of(f32, 1) == (std::vector{0.25f, 1e30f}), boost::test_tools::per_element());
  const Tensor bf16 = tensor_of(DType::bf16, {2}, raw<uint16_t>(0x3fc0) + raw<uint16_t>(0xc000));
  BOOST_TEST(row_of(bf16, 0) == (std::vector{1.5f, -2.0f}), boost::test_tools::per_element());
  const Tensor f16 = tensor_of(DType::f16, {1, 2}, raw(half_2) + raw(half_minus_half));
  BOOST_TEST(row_of(f16, 0) == (std::vector{2.0f, -0.5f}), boost::test_tools::per_element());
  const Tensor i64 = tensor_of(DType::i64, {2}, raw(int64_t{-7}) + raw(int64_t{1} << 40));
  BOOST_TEST(row_of(i64, 0) == (std::vector{-7.0f, 0x1p40f}), boost::test_tools::per_element());
  BOOST_TEST(integers(i64) == (std::vector<int64_t>{-7, int64_t{1} << 40}), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(q8_0_is_scale_times_integer) {
  std::string bytes = raw(half_minus_half);
  for (int j = 0; j < 32; ++j) bytes += static_cast<char>(j == 31 ? -128 : j);
  const auto row = row_of(tensor_of(DType::q8_0, {32}, bytes), 0);
  for (int j = 0; j < 31; ++j) BOOST_TEST(row[j] == -0.5f * j);
  BOOST_TEST(row[31] == 64.0f);
}

BOOST_AUTO_TEST_CASE(q4_0_holds_values_0_to_15_in_low_halves_and_centres_them) {
  std::string bytes = raw(half_2);
  for (int j = 0; j < 16; ++j) bytes += static_cast<char>(j | (15 - j) << 4);
  const auto row = row_of(tensor_of(DType::q4_0, {32}, bytes), 0);
  for (int j = 0; j < 16; ++j) {
    BOOST_TEST(row[j] == 2.0f * (j - 8));
    BOOST_TEST(row[j + 16] == 2.0f * (7 - j));
  }
}

BOOST_AUTO_TEST_CASE(q4_1_is_scale_times_nibble_plus_minimum_and_rows_are_whole_blocks) {
  std::string bytes;
  for (int block = 0; block < 4; ++block) {  // [2, 64]: two blocks a row
    bytes += raw(half_2) + raw(half_minus_half);
    for (int j = 0; j < 16; ++j) bytes += static_cast<char>(j | block << 4);
  }
  const auto row = row_of(tensor_of(DType::q4_1, {2, 64}, bytes), 1);
  for (int j = 0; j < 16; ++j) {
    BOOST_TEST(row[j] == 2.0f * j - 0.5f);
    BOOST_TEST(row[j + 16] == 2.0f * 2 - 0.5f);
    BOOST_TEST(row[j + 48] == 2.0f * 3 - 0.5f);
  }
}

BOOST_AUTO_TEST_CASE(a_size_that_overflows_or_cuts_a_block_is_none) {
  constexpr int64_t huge = std::numeric_limits<int64_t>::max();
  const auto size = [](DType type, std::vector<int64_t> shape) { return byte_size(type, shape); };
  BOOST_TEST((size(DType::q4_1, {3, 64}) == 120u));
  BOOST_TEST((size(DType::q6_k, {3, 512}) == 1260u));
  BOOST_TEST(!size(DType::q4_k, {128}).has_value());
  BOOST_TEST((size(DType::f32, {}) == 4u));
  BOOST_TEST((size(DType::f32, {5, 0}) == 0u));
  BOOST_TEST((size(DType::f16, {huge}) == static_cast<uint64_t>(huge) * 2));
  BOOST_TEST(!size(DType::f32, {huge}).has_value());
  BOOST_TEST(!size(DType::f32, {huge, huge}).has_value());
  BOOST_TEST(!size(DType::f32, {1ll << 31, 1ll << 31}).has_value());
  BOOST_TEST(!size(DType::f32, {-1, -4}).has_value());
  BOOST_TEST(!size(DType::f32, {-1}).has_value());
  BOOST_TEST(!size(DType::q8_0, {33}).has_value());
}
