#include "model/format/gguf_reader.hpp"

#include <algorithm>
#include <array>
#include <cassert>

namespace convoy::model {

namespace {

/// Bytes that a value of each type takes at least: an array's count is held against them before it is gone
/// through.
constexpr std::array<uint64_t, 13> value_bytes_min{1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};

uint64_t bytes_min(GgufType type) { return value_bytes_min[static_cast<size_t>(type)]; }

/// Of a number: all numbers of a type are as long.
bool is_number(GgufType type) {
  return type != GgufType::boolean && type != GgufType::string && type != GgufType::array;
}

}  // namespace

std::span<const std::byte> GgufReader::take(uint64_t bytes) {
  const auto all = file_->bytes();
  if (bytes > left())
    fail("ends at byte " + std::to_string(all.size()) + ", before the " + std::to_string(bytes) +
         " bytes at " + std::to_string(position_));
  const auto part = all.subspan(position_, bytes);
  position_ += bytes;
  return part;
}

std::string_view GgufReader::string(uint64_t bytes_max) {
  const auto size = number<uint64_t>();
  if (size > bytes_max)
    fail("has a string of " + std::to_string(size) + " bytes; the limit is " + std::to_string(bytes_max));
  const auto part = take(size);
  return {reinterpret_cast<const char*>(part.data()), part.size()};
}

GgufType GgufReader::type() {
  const auto type = number<uint32_t>();
  if (type >= value_bytes_min.size()) fail("has a value of the unknown type " + std::to_string(type));
  return static_cast<GgufType>(type);
}

bool GgufReader::truth() {
  const auto truth = number<uint8_t>();
  if (truth > 1) fail("is a truth value of " + std::to_string(truth));
  return truth == 1;
}

GgufValue GgufReader::value(GgufType type, int depth_left) {
  switch (type) {
    case GgufType::u8:
      return {uint64_t{number<uint8_t>()}};
    case GgufType::u16:
      return {uint64_t{number<uint16_t>()}};
    case GgufType::u32:
      return {uint64_t{number<uint32_t>()}};
    case GgufType::u64:
      return {number<uint64_t>()};
    case GgufType::i8:
      return {int64_t{number<int8_t>()}};
    case GgufType::i16:
      return {int64_t{number<int16_t>()}};
    case GgufType::i32:
      return {int64_t{number<int32_t>()}};
    case GgufType::i64:
      return {number<int64_t>()};
    case GgufType::f32:
      return {double{number<float>()}};
    case GgufType::f64:
      return {number<double>()};
    case GgufType::string:
      return {std::string(string(gguf_string_bytes_max))};
    case GgufType::array:
      return {array(depth_left)};
    case GgufType::boolean:
      break;
  }
  return {truth()};
}

GgufArray GgufReader::array(int depth_left) {
  if (depth_left == 0) fail("nests arrays more than " + std::to_string(gguf_array_depth_max) + " deep");
  const GgufType of = type();
  const auto count = number<uint64_t>();
  const uint64_t fit = left() / bytes_min(of);
  if (count > fit || count > gguf_values_max - values_)
    fail("has an array of " + std::to_string(count) + " values; " + std::to_string(fit) +
         " fit in the file, and the limit for all arrays is " + std::to_string(gguf_values_max));
  values_ += count;
  GgufArray view(file_, of, count, position_);
  pass(of, count, depth_left - 1);
  return view;
}

void GgufReader::pass(GgufType type, uint64_t count, int depth_left) {
  if (is_number(type)) {
    if (count > left() / bytes_min(type)) fail("ends before the end of an array");
    take(count * bytes_min(type));
    return;
  }
  for (uint64_t i = 0; i < count; ++i) {
    if (type == GgufType::boolean)
      truth();
    else if (type == GgufType::string)
      string(gguf_string_bytes_max);
    else
      array(depth_left);
  }
}

GgufArray::Iterator GgufArray::begin() const { return {*this, 0, begin_}; }
GgufArray::Iterator GgufArray::end() const { return {*this, size_, 0}; }

GgufValue GgufArray::at(size_t index) const {
  assert(index < size_);
  GgufReader reader(file_, begin_);
  reader.pass(type_, index);
  return reader.value(type_);
}

bool GgufArray::operator==(const GgufArray& other) const {
  return size_ == other.size_ && std::ranges::equal(*this, other);
}

GgufValue GgufArray::Iterator::operator*() const {
  return GgufReader(array_->file_, position_).value(array_->type_);
}

GgufArray::Iterator& GgufArray::Iterator::operator++() {
  GgufReader reader(array_->file_, position_);
  reader.pass(array_->type_, 1);
  position_ = reader.position();
  ++index_;
  return *this;
}

}  // namespace convoy::model
