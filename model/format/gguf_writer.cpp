#include "model/format/gguf_writer.hpp"

#include <cassert>
#include <cstring>

#include "model/format/gguf.hpp"

namespace convoy::model {

namespace {

constexpr uint64_t alignment = 32;  // the format's default
constexpr uint32_t version = 3;

template <class T>
void put(std::string& to, T value) {
  char bytes[sizeof value];
  std::memcpy(bytes, &value, sizeof value);
  to.append(bytes, sizeof value);
}

void put_text(std::string& to, std::string_view text) {
  put(to, uint64_t{text.size()});
  to += text;
}

uint64_t padded(uint64_t bytes) { return (bytes + alignment - 1) / alignment * alignment; }

void begin(std::string& to, std::string_view name, GgufType type) {
  put_text(to, name);
  put(to, type);
}

}  // namespace

GgufWriter& GgufWriter::key(std::string_view name, uint32_t value) {
  begin(metadata_, name, GgufType::u32);
  put(metadata_, value);
  ++keys_;
  return *this;
}

GgufWriter& GgufWriter::key(std::string_view name, float value) {
  begin(metadata_, name, GgufType::f32);
  put(metadata_, value);
  ++keys_;
  return *this;
}

GgufWriter& GgufWriter::key(std::string_view name, bool value) {
  begin(metadata_, name, GgufType::boolean);
  put(metadata_, static_cast<uint8_t>(value));
  ++keys_;
  return *this;
}

GgufWriter& GgufWriter::key(std::string_view name, std::string_view value) {
  begin(metadata_, name, GgufType::string);
  put_text(metadata_, value);
  ++keys_;
  return *this;
}

GgufWriter& GgufWriter::key(std::string_view name, std::span<const std::string> values) {
  begin(metadata_, name, GgufType::array);
  put(metadata_, GgufType::string);
  put(metadata_, uint64_t{values.size()});
  for (const std::string& value : values) put_text(metadata_, value);
  ++keys_;
  return *this;
}

GgufWriter& GgufWriter::key(std::string_view name, std::span<const int32_t> values) {
  begin(metadata_, name, GgufType::array);
  put(metadata_, GgufType::i32);
  put(metadata_, uint64_t{values.size()});
  for (const int32_t value : values) put(metadata_, value);
  ++keys_;
  return *this;
}

GgufWriter& GgufWriter::key(std::string_view name, std::span<const float> values) {
  begin(metadata_, name, GgufType::array);
  put(metadata_, GgufType::f32);
  put(metadata_, uint64_t{values.size()});
  for (const float value : values) put(metadata_, value);
  ++keys_;
  return *this;
}

void GgufWriter::tensor(std::string_view name, std::span<const int64_t> shape, DType type) {
  const auto number = gguf_number(type);
  const auto bytes = byte_size(type, shape);
  assert(number && bytes && !shape.empty());
  put_text(descriptions_, name);
  put(descriptions_, static_cast<uint32_t>(shape.size()));
  for (auto dim = shape.rbegin(); dim != shape.rend(); ++dim) put(descriptions_, static_cast<uint64_t>(*dim));
  put(descriptions_, *number);
  put(descriptions_, data_bytes_);
  [[maybe_unused]] const bool is_new = offsets_.emplace(name, data_bytes_).second;
  assert(is_new);
  data_bytes_ += padded(*bytes);
}

std::string GgufWriter::header() const {
  std::string bytes = "GGUF";
  put(bytes, version);
  put(bytes, uint64_t{offsets_.size()});
  put(bytes, keys_);
  bytes += metadata_ + descriptions_;
  bytes.resize(padded(bytes.size()), '\0');
  return bytes;
}

}  // namespace convoy::model
