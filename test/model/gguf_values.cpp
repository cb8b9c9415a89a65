// A GGUF's values: each type is read as it was written, and an array is a view that takes no memory.

#include <algorithm>

#include "builders.hpp"
#include "gguf_arrays.hpp"
#include "model/checkpoint/checkpoint_parts.hpp"
#include "test/allocations.hpp"

using namespace convoy;
using namespace convoy::model;
using test::Allocations;
using test::counted;
using test::GgufBuilder;
using test::raw;
using test::tiny_gguf;

namespace {

/// An array's type and count, and its values.
std::string array_bytes(GgufType type, uint64_t count, const std::string& values) {
  return raw(type) + raw(count) + values;
}

GgufValue value_of(GgufType type, const std::string& bytes) {
  const GgufBuilder file = GgufBuilder().key("key", static_cast<uint32_t>(type), bytes);
  return GgufFile::parse(test::in_memory(file.bytes())).metadata.at("key");
}

/// The one value of an array of one, which is that value alone too.
GgufValue only_value(GgufType type, const std::string& bytes) {
  const GgufValue array = value_of(GgufType::array, array_bytes(type, 1, bytes));
  const auto& values = std::get<GgufArray>(array.value);
  BOOST_TEST(values.size() == 1u);
  BOOST_TEST((values.at(0) == value_of(type, bytes)));
  return *values.begin();
}

std::string repeated(const std::string& value, size_t count) {
  std::string all;
  for (size_t i = 0; i < count; ++i) all += value;
  return all;
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_value_of_each_type_is_read_as_it_was_written) {
  using V = GgufValue;
  BOOST_TEST((only_value(GgufType::u8, raw(uint8_t{200})) == V{uint64_t{200}}));
  BOOST_TEST((only_value(GgufType::i8, raw(int8_t{-100})) == V{int64_t{-100}}));
  BOOST_TEST((only_value(GgufType::u16, raw(uint16_t{60000})) == V{uint64_t{60000}}));
  BOOST_TEST((only_value(GgufType::i16, raw(int16_t{-30000})) == V{int64_t{-30000}}));
  BOOST_TEST((only_value(GgufType::u32, raw(uint32_t{4000000000})) == V{uint64_t{4000000000}}));
  BOOST_TEST((only_value(GgufType::i32, raw(int32_t{-2000000000})) == V{int64_t{-2000000000}}));
  BOOST_TEST((only_value(GgufType::u64, raw(~uint64_t{0})) == V{~uint64_t{0}}));
  BOOST_TEST((only_value(GgufType::i64, raw(INT64_MIN)) == V{INT64_MIN}));
  BOOST_TEST((only_value(GgufType::f32, raw(-0.5f)) == V{-0.5}));
  BOOST_TEST((only_value(GgufType::f64, raw(0.1)) == V{0.1}));
  BOOST_TEST((only_value(GgufType::boolean, raw(uint8_t{1})) == V{true}));
  BOOST_TEST((only_value(GgufType::string, counted("é")) == V{std::string("é")}));
  CHECK_INPUT_ERROR(value_of(GgufType::array, array_bytes(GgufType::boolean, 2, "\1\2")), "truth value");
}

BOOST_AUTO_TEST_CASE(an_array_gives_its_values_in_order_and_each_by_its_place) {
  const std::vector<std::string> texts = {"", "a", std::string(300, 'b'), "c"};
  const GgufArray array = test::gguf_values(texts);
  BOOST_TEST(test::values_of<std::string>(array) == texts, boost::test_tools::per_element());
  for (size_t i = 0; i < texts.size(); ++i) BOOST_TEST(std::get<std::string>(array.at(i).value) == texts[i]);
  BOOST_TEST(std::get<int64_t>(test::gguf_values<int32_t>({7, -8, 9}).at(1).value) == -8);
  BOOST_TEST((GgufArray().begin() == GgufArray().end()));
}

BOOST_AUTO_TEST_CASE(arrays_within_an_array_are_views_as_well) {
  const std::string inner =
      array_bytes(GgufType::u8, 2, "\1\2") + array_bytes(GgufType::string, 1, counted("x"));
  const GgufValue outer = value_of(GgufType::array, array_bytes(GgufType::array, 2, inner));
  const auto& arrays = std::get<GgufArray>(outer.value);
  const GgufValue first = *arrays.begin(), second = arrays.at(1);
  BOOST_TEST((std::get<GgufArray>(first.value).at(1) == GgufValue{uint64_t{2}}));
  BOOST_TEST((std::get<GgufArray>(second.value).at(0) == GgufValue{std::string("x")}));
}

BOOST_AUTO_TEST_CASE(arrays_are_equal_by_their_values_whatever_the_width) {
  const auto array = [](GgufType type, const std::string& values, uint64_t count) {
    return value_of(GgufType::array, array_bytes(type, count, values));
  };
  const GgufValue bytes = array(GgufType::u8, "\1\2", 2);
  BOOST_TEST((bytes == array(GgufType::u32, raw(uint32_t{1}) + raw(uint32_t{2}), 2)));
  BOOST_TEST(!(bytes == array(GgufType::u8, "\1\3", 2)));
  BOOST_TEST(!(bytes == array(GgufType::u8, "\1", 1)));
}

BOOST_AUTO_TEST_CASE(arrays_of_a_million_values_take_no_memory_beside_the_file) {
  constexpr uint64_t count = 300'000, bytes_max = 64 << 10;
  const GgufBuilder file =
      tiny_gguf("llama")
          .key("texts", test::gguf_array,
               array_bytes(GgufType::string, count, repeated(counted("ab"), count)))
          .key("bytes", test::gguf_array, array_bytes(GgufType::u8, count, std::string(count, '\1')))
          .key("truths", test::gguf_array, array_bytes(GgufType::boolean, count, std::string(count, '\1')))
          .key(
              "arrays", test::gguf_array,
              array_bytes(GgufType::array, count / 3, repeated(array_bytes(GgufType::u8, 0, ""), count / 3)));
  const auto mapped = test::in_memory(file.bytes());
  const Allocations taken(Allocations::Of::all_threads);
  const auto checkpoint = make_checkpoint(read_gguf(mapped));
  size_t texts = 0;
  for (const GgufValue& v : std::get<GgufArray>(checkpoint->metadata().at("texts").value))
    texts += std::get<std::string>(v.value) == "ab";
  const size_t bytes = taken.bytes();
  BOOST_TEST(texts == count);
  BOOST_TEST(bytes > 0u);
  BOOST_TEST(bytes < bytes_max);
}

BOOST_AUTO_TEST_CASE(a_file_that_changes_under_its_mapping_is_read_within_its_bounds) {
  const std::string header =
      GgufBuilder()
          .key("texts", test::gguf_array, array_bytes(GgufType::string, 2, counted("a") + counted("last")))
          .header();
  std::span<std::byte> memory;
  const auto mapped = Mapping::reserve(header.size(), "changing", memory);
  std::ranges::copy(std::as_bytes(std::span(header)), memory.begin());
  const GgufMetadata metadata = GgufFile::parse(mapped).metadata;
  const auto& texts = std::get<GgufArray>(metadata.at("texts").value);
  const size_t length_at = header.find("last") - sizeof(uint64_t);
  for (const uint64_t length : {uint64_t{1} << 20, ~uint64_t{0}}) {
    std::ranges::copy(std::as_bytes(std::span(&length, 1)),
                      memory.begin() + static_cast<ptrdiff_t>(length_at));
    CHECK_INPUT_ERROR(test::values_of<std::string>(texts), "changing");
  }
}
