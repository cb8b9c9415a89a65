#pragma once
// What a GGUF says of itself beside its tensors. Immutable; any thread may read it.

#include <cstdint>
#include <functional>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <variant>

namespace convoy::model {

class Mapping;
struct GgufValue;

/// The format's numbers for the types of values.
enum class GgufType : uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

/// An array: a view of the file, which it holds. Its values lie there and are decoded one by one as they are
/// asked for, so that a million of them take no memory beside the file's. All were checked when the file was
/// parsed; if it has been changed since, what reads them throws InputError or gives other values.
class GgufArray {
 public:
  class Iterator;

  GgufArray() = default;
  /// `size` values from the byte `begin` of the file on.
  GgufArray(std::shared_ptr<const Mapping> file, GgufType type, size_t size, size_t begin)
      : file_(std::move(file)), type_(type), size_(size), begin_(begin) {}

  size_t size() const { return size_; }
  Iterator begin() const;
  Iterator end() const;
  /// index < size(). At once for numbers; on the way to a string or an array all before it are passed over.
  GgufValue at(size_t index) const;
  /// By value, whatever the types in the file.
  bool operator==(const GgufArray& other) const;

 private:
  std::shared_ptr<const Mapping> file_;
  GgufType type_ = GgufType::u8;
  size_t size_ = 0, begin_ = 0;
};

/// One value of a GGUF's metadata.
struct GgufValue {
  std::variant<uint64_t, int64_t, double, bool, std::string, GgufArray> value;
  bool operator==(const GgufValue& other) const { return value == other.value; }
};

/// Goes forward through an array that outlives it.
class GgufArray::Iterator {
 public:
  using value_type = GgufValue;
  using difference_type = std::ptrdiff_t;

  Iterator() = default;
  Iterator(const GgufArray& array, size_t index, size_t position)
      : array_(&array), index_(index), position_(position) {}

  GgufValue operator*() const;
  Iterator& operator++();
  Iterator operator++(int) {
    const Iterator before = *this;
    ++*this;
    return before;
  }
  bool operator==(const Iterator& other) const { return index_ == other.index_; }

 private:
  const GgufArray* array_ = nullptr;
  size_t index_ = 0, position_ = 0;  // position_: of the value, in the file
};

using GgufMetadata = std::map<std::string, GgufValue, std::less<>>;

}  // namespace convoy::model
