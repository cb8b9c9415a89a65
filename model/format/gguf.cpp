#include "model/format/gguf.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <optional>
#include <vector>

#include "model/error.hpp"
#include "model/json.hpp"

namespace convoy::model {

namespace {

constexpr std::string_view magic = "GGUF";
constexpr uint64_t default_alignment = 32;
const char* const mend = "the file is damaged or incomplete; fetch it again";

/// The format's numbers for the types of metadata values.
enum class ValueType : uint32_t { u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64 };

/// Bytes that a value of each type takes at least: an array's count is held against them before memory is
/// taken.
constexpr std::array<uint64_t, 13> value_bytes_min{1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};

/// The file's number of a tensor type, its name, and ours when we read it. The rest is here to be named in
/// errors.
struct TensorType {
  uint32_t number;
  std::string_view name;
  std::optional<DType> type;
};
constexpr std::array tensor_types{
    TensorType{0, "F32", DType::f32},        TensorType{1, "F16", DType::f16},
    TensorType{2, "Q4_0", DType::q4_0},      TensorType{3, "Q4_1", DType::q4_1},
    TensorType{8, "Q8_0", DType::q8_0},      TensorType{12, "Q4_K", DType::q4_k},
    TensorType{13, "Q5_K", DType::q5_k},     TensorType{14, "Q6_K", DType::q6_k},
    TensorType{20, "IQ4_NL", DType::iq4_nl}, TensorType{27, "I64", DType::i64},
    TensorType{30, "BF16", DType::bf16},     TensorType{6, "Q5_0", std::nullopt},
    TensorType{7, "Q5_1", std::nullopt},     TensorType{10, "Q2_K", std::nullopt},
    TensorType{11, "Q3_K", std::nullopt},    TensorType{23, "IQ4_XS", std::nullopt}};

/// Reads forward through the header; every read is checked against the end of the file.
class Cursor {
 public:
  explicit Cursor(const Mapping& file) : bytes_(file.bytes()), where_(file.path().string()) {}

  size_t position() const { return position_; }
  size_t left() const { return bytes_.size() - position_; }

  /// Names what is being read, for messages.
  void reading(std::string what) { what_ = std::move(what); }
  std::string where() const { return what_.empty() ? where_ : where_ + ": " + what_; }
  [[noreturn]] void fail(const std::string& problem, const char* how = mend) const {
    throw InputError(problem, where(), how);
  }

  template <class T>
  T number() {
    T value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }

  std::string_view string(uint64_t bytes_max) {
    const auto size = number<uint64_t>();
    if (size > bytes_max)
      fail("has a string of " + std::to_string(size) + " bytes; the limit is " + std::to_string(bytes_max));
    const auto part = take(size);
    return {reinterpret_cast<const char*>(part.data()), part.size()};
  }

 private:
  std::span<const std::byte> take(uint64_t size) {
    if (size > left())
      fail("ends at byte " + std::to_string(bytes_.size()) + ", before the " + std::to_string(size) +
           " bytes at " + std::to_string(position_));
    const auto part = bytes_.subspan(position_, size);
    position_ += size;
    return part;
  }

  std::span<const std::byte> bytes_;
  size_t position_ = 0;
  std::string where_, what_;
};

class HeaderReader {
 public:
  explicit HeaderReader(const Mapping& file) : cursor_(file) {}

  GgufMetadata metadata() {
    read_counts();
    GgufMetadata result;
    for (uint64_t i = 0; i < keys_; ++i) {
      cursor_.reading("metadata key " + std::to_string(i));
      const std::string key(cursor_.string(gguf_key_bytes_max));
      cursor_.reading("metadata " + in_quotes(key));
      GgufValue value = read_value(value_type(), gguf_array_depth_max);
      if (!result.emplace(key, std::move(value)).second) cursor_.fail("stands twice");
    }
    return result;
  }

  /// Call after metadata(): tensor descriptions follow it.
  TensorMap tensors(const std::shared_ptr<const Mapping>& file, uint64_t alignment) {
    struct Described {
      std::string name;
      Tensor tensor;
      uint64_t offset;
    };
    std::vector<Described> described;
    for (uint64_t i = 0; i < tensors_; ++i) {
      cursor_.reading("tensor " + std::to_string(i));
      std::string name(cursor_.string(gguf_key_bytes_max));
      cursor_.reading("tensor " + in_quotes(name));
      Tensor tensor{DType::f32, read_shape(), {}, file};
      tensor.type = read_tensor_type();
      described.push_back({std::move(name), std::move(tensor), cursor_.number<uint64_t>()});
    }
    const uint64_t header_bytes = cursor_.position();
    const uint64_t data_begin = (header_bytes + alignment - 1) / alignment * alignment;
    const auto bytes = file->bytes();
    const auto data = bytes.subspan(std::min<uint64_t>(data_begin, bytes.size()));

    TensorMap result;
    for (Described& one : described) {
      cursor_.reading("tensor " + in_quotes(one.name));
      const auto size = byte_size(one.tensor.type, one.tensor.shape);
      if (!size) cursor_.fail("has a shape that its type doesn't allow");
      if (one.offset % alignment != 0)
        cursor_.fail("begins at " + std::to_string(one.offset) + ", not aligned");
      if (one.offset > data.size() || *size > data.size() - one.offset)
        cursor_.fail("has " + std::to_string(*size) + " bytes at offset " + std::to_string(one.offset) +
                     " of the data, which ends at " + std::to_string(data.size()));
      one.tensor.bytes = data.subspan(one.offset, *size);
      if (!result.emplace(one.name, std::move(one.tensor)).second) cursor_.fail("stands twice");
    }
    check_overlaps(result);
    return result;
  }

 private:
  void read_counts() {
    cursor_.reading("");
    if (cursor_.left() < magic.size()) cursor_.fail("is too short for a GGUF file");
    for (const char c : magic)
      if (cursor_.number<char>() != c) cursor_.fail("is not a GGUF file", "give a GGUF file");
    const auto version = cursor_.number<uint32_t>();
    if (version != 2 && version != 3)
      cursor_.fail("is GGUF of version " + std::to_string(version),
                   "versions 2 and 3, little-endian, are understood; convert it");
    tensors_ = cursor_.number<uint64_t>();
    keys_ = cursor_.number<uint64_t>();
    if (tensors_ > gguf_tensors_max || keys_ > gguf_keys_max)
      cursor_.fail("says it has " + std::to_string(tensors_) + " tensors and " + std::to_string(keys_) +
                   " metadata keys; the limits are " + std::to_string(gguf_tensors_max) + " and " +
                   std::to_string(gguf_keys_max));
  }

  ValueType value_type() {
    const auto number = cursor_.number<uint32_t>();
    if (number >= value_bytes_min.size())
      cursor_.fail("has a value of the unknown type " + std::to_string(number));
    return static_cast<ValueType>(number);
  }

  GgufValue read_value(ValueType type, int depth_left) {
    switch (type) {
      case ValueType::u8:
        return {uint64_t{cursor_.number<uint8_t>()}};
      case ValueType::u16:
        return {uint64_t{cursor_.number<uint16_t>()}};
      case ValueType::u32:
        return {uint64_t{cursor_.number<uint32_t>()}};
      case ValueType::u64:
        return {cursor_.number<uint64_t>()};
      case ValueType::i8:
        return {int64_t{cursor_.number<int8_t>()}};
      case ValueType::i16:
        return {int64_t{cursor_.number<int16_t>()}};
      case ValueType::i32:
        return {int64_t{cursor_.number<int32_t>()}};
      case ValueType::i64:
        return {cursor_.number<int64_t>()};
      case ValueType::f32:
        return {double{cursor_.number<float>()}};
      case ValueType::f64:
        return {cursor_.number<double>()};
      case ValueType::string:
        return {std::string(cursor_.string(gguf_string_bytes_max))};
      case ValueType::array:
        return {read_array(depth_left)};
      case ValueType::boolean:
        break;
    }
    const auto truth = cursor_.number<uint8_t>();
    if (truth > 1) cursor_.fail("is a truth value of " + std::to_string(truth));
    return {truth == 1};
  }

  GgufArray read_array(int depth_left) {
    if (depth_left == 0)
      cursor_.fail("nests arrays more than " + std::to_string(gguf_array_depth_max) + " deep");
    const ValueType type = value_type();
    const auto count = cursor_.number<uint64_t>();
    const uint64_t fit = cursor_.left() / value_bytes_min[static_cast<size_t>(type)];
    if (count > fit || count > gguf_values_max - values_)
      cursor_.fail("has an array of " + std::to_string(count) + " values; " + std::to_string(fit) +
                   " fit in the file, and the limit for all arrays is " + std::to_string(gguf_values_max));
    values_ += count;
    GgufArray array;
    array.reserve(count);
    for (uint64_t i = 0; i < count; ++i) array.push_back(read_value(type, depth_left - 1));
    return array;
  }

  /// The file's dimensions begin with the innermost, ours with the outermost.
  std::vector<int64_t> read_shape() {
    constexpr uint32_t dims_max = 4;  // the format's own
    const auto dims = cursor_.number<uint32_t>();
    if (dims == 0 || dims > dims_max) cursor_.fail("has " + std::to_string(dims) + " dimensions");
    std::vector<int64_t> shape(dims);
    for (auto dim = shape.rbegin(); dim != shape.rend(); ++dim) {
      const auto count = cursor_.number<uint64_t>();
      if (count == 0 || count > static_cast<uint64_t>(INT64_MAX))
        cursor_.fail("has a dimension of " + std::to_string(count));
      *dim = static_cast<int64_t>(count);
    }
    return shape;
  }

  DType read_tensor_type() {
    const auto number = cursor_.number<uint32_t>();
    const auto* known = std::ranges::find(tensor_types, number, &TensorType::number);
    if (known != tensor_types.end() && known->type) return *known->type;
    const std::string name = known == tensor_types.end() ? "" : std::string(known->name) + ", ";
    cursor_.fail(
        "has a type that is not understood (" + name + "number " + std::to_string(number) + ")",
        "F32, F16, BF16, Q8_0, Q4_0, Q4_1, IQ4_NL, Q4_K, Q5_K and Q6_K are; give a file in one of these");
  }

  void check_overlaps(const TensorMap& tensors) {
    std::vector<const TensorMap::value_type*> sorted;
    for (const auto& entry : tensors) sorted.push_back(&entry);
    std::ranges::sort(sorted, {}, [](const auto* entry) { return entry->second.bytes.data(); });
    for (size_t i = 1; i < sorted.size(); ++i) {
      const auto before = sorted[i - 1]->second.bytes;
      if (before.data() + before.size() <= sorted[i]->second.bytes.data()) continue;
      cursor_.reading("tensor " + in_quotes(sorted[i]->first));
      cursor_.fail("overlaps the tensor " + in_quotes(sorted[i - 1]->first));
    }
  }

  Cursor cursor_;
  uint64_t tensors_ = 0, keys_ = 0;
  uint64_t values_ = 0;  // array elements read so far
};

uint64_t alignment_of(const GgufMetadata& metadata, const std::string& where) {
  const auto found = metadata.find("general.alignment");
  if (found == metadata.end()) return default_alignment;
  const auto* value = std::get_if<uint64_t>(&found->second.value);
  if (!value || *value < 8 || *value > gguf_alignment_max || !std::has_single_bit(*value))
    throw InputError("is not a power of two from 8 to " + std::to_string(gguf_alignment_max),
                     where + ": metadata \"general.alignment\"", mend);
  return *value;
}

}  // namespace

bool looks_like_gguf(std::span<const std::byte> bytes) {
  return bytes.size() >= magic.size() && std::memcmp(bytes.data(), magic.data(), magic.size()) == 0;
}

std::optional<uint32_t> gguf_number(DType type) {
  const auto* known = std::ranges::find(tensor_types, std::optional(type), &TensorType::type);
  return known == tensor_types.end() ? std::nullopt : std::optional(known->number);
}

GgufFile GgufFile::parse(std::shared_ptr<const Mapping> file) {
  HeaderReader reader(*file);
  GgufFile result;
  result.metadata = reader.metadata();
  result.tensors = reader.tensors(file, alignment_of(result.metadata, file->path().string()));
  result.file = std::move(file);
  return result;
}

GgufMetadata GgufFile::read_metadata(const std::filesystem::path& path) {
  const auto file = Mapping::open(path);
  return HeaderReader(*file).metadata();
}

}  // namespace convoy::model
