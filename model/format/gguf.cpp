#include "model/format/gguf.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <optional>
#include <vector>

#include "model/error.hpp"
#include "model/format/gguf_reader.hpp"
#include "model/json.hpp"

namespace convoy::model {

namespace {

constexpr std::string_view magic = "GGUF";
constexpr uint64_t default_alignment = 32;

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

class HeaderReader {
 public:
  /// file: outlives the reader.
  explicit HeaderReader(const std::shared_ptr<const Mapping>& file) : file_(file), reader_(file) {}

  GgufMetadata metadata() {
    read_counts();
    GgufMetadata result;
    for (uint64_t i = 0; i < keys_; ++i) {
      reader_.reading("metadata key " + std::to_string(i));
      const std::string key(reader_.string(gguf_key_bytes_max));
      reader_.reading("metadata " + in_quotes(key));
      GgufValue value = reader_.value(reader_.type());
      if (!result.emplace(key, std::move(value)).second) reader_.fail("stands twice");
    }
    return result;
  }

  /// Call after metadata(): tensor descriptions follow it.
  TensorMap tensors(uint64_t alignment) {
    struct Described {
      std::string name;
      Tensor tensor;
      uint64_t offset;
    };
    std::vector<Described> described;
    for (uint64_t i = 0; i < tensors_; ++i) {
      reader_.reading("tensor " + std::to_string(i));
      std::string name(reader_.string(gguf_key_bytes_max));
      reader_.reading("tensor " + in_quotes(name));
      Tensor tensor{DType::f32, read_shape(), {}, file_};
      tensor.type = read_tensor_type();
      described.push_back({std::move(name), std::move(tensor), reader_.number<uint64_t>()});
    }
    const uint64_t header_bytes = reader_.position();
    const uint64_t data_begin = (header_bytes + alignment - 1) / alignment * alignment;
    const auto bytes = file_->bytes();
    const auto data = bytes.subspan(std::min<uint64_t>(data_begin, bytes.size()));

    TensorMap result;
    for (Described& one : described) {
      reader_.reading("tensor " + in_quotes(one.name));
      const auto size = byte_size(one.tensor.type, one.tensor.shape);
      if (!size) reader_.fail("has a shape that its type doesn't allow");
      if (one.offset % alignment != 0)
        reader_.fail("begins at " + std::to_string(one.offset) + ", not aligned");
      if (one.offset > data.size() || *size > data.size() - one.offset)
        reader_.fail("has " + std::to_string(*size) + " bytes at offset " + std::to_string(one.offset) +
                     " of the data, which ends at " + std::to_string(data.size()));
      one.tensor.bytes = data.subspan(one.offset, *size);
      if (!result.emplace(one.name, std::move(one.tensor)).second) reader_.fail("stands twice");
    }
    check_overlaps(result);
    return result;
  }

 private:
  void read_counts() {
    reader_.reading("");
    if (reader_.left() < magic.size()) reader_.fail("is too short for a GGUF file");
    for (const char c : magic)
      if (reader_.number<char>() != c) reader_.fail("is not a GGUF file", "give a GGUF file");
    const auto version = reader_.number<uint32_t>();
    if (version != 2 && version != 3)
      reader_.fail("is GGUF of version " + std::to_string(version),
                   "versions 2 and 3, little-endian, are understood; convert it");
    tensors_ = reader_.number<uint64_t>();
    keys_ = reader_.number<uint64_t>();
    if (tensors_ > gguf_tensors_max || keys_ > gguf_keys_max)
      reader_.fail("says it has " + std::to_string(tensors_) + " tensors and " + std::to_string(keys_) +
                   " metadata keys; the limits are " + std::to_string(gguf_tensors_max) + " and " +
                   std::to_string(gguf_keys_max));
  }

  /// The file's dimensions begin with the innermost, ours with the outermost.
  std::vector<int64_t> read_shape() {
    constexpr uint32_t dims_max = 4;  // the format's own
    const auto dims = reader_.number<uint32_t>();
    if (dims == 0 || dims > dims_max) reader_.fail("has " + std::to_string(dims) + " dimensions");
    std::vector<int64_t> shape(dims);
    for (auto dim = shape.rbegin(); dim != shape.rend(); ++dim) {
      const auto count = reader_.number<uint64_t>();
      if (count == 0 || count > static_cast<uint64_t>(INT64_MAX))
        reader_.fail("has a dimension of " + std::to_string(count));
      *dim = static_cast<int64_t>(count);
    }
    return shape;
  }

  DType read_tensor_type() {
    const auto number = reader_.number<uint32_t>();
    const auto* known = std::ranges::find(tensor_types, number, &TensorType::number);
    if (known != tensor_types.end() && known->type) return *known->type;
    const std::string name = known == tensor_types.end() ? "" : std::string(known->name) + ", ";
    reader_.fail(
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
      reader_.reading("tensor " + in_quotes(sorted[i]->first));
      reader_.fail("overlaps the tensor " + in_quotes(sorted[i - 1]->first));
    }
  }

  const std::shared_ptr<const Mapping>& file_;
  GgufReader reader_;
  uint64_t tensors_ = 0, keys_ = 0;
};

uint64_t alignment_of(const GgufMetadata& metadata, const std::string& where) {
  const auto found = metadata.find("general.alignment");
  if (found == metadata.end()) return default_alignment;
  const auto* value = std::get_if<uint64_t>(&found->second.value);
  if (!value || *value < 8 || *value > gguf_alignment_max || !std::has_single_bit(*value))
    throw InputError("is not a power of two from 8 to " + std::to_string(gguf_alignment_max),
                     where + ": metadata \"general.alignment\"", gguf_mend);
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
  HeaderReader reader(file);
  GgufFile result;
  result.metadata = reader.metadata();
  result.tensors = reader.tensors(alignment_of(result.metadata, file->path().string()));
  result.file = std::move(file);
  return result;
}

GgufMetadata GgufFile::read_metadata(const std::filesystem::path& path) {
  const auto file = Mapping::open(path);
  return HeaderReader(file).metadata();
}

}  // namespace convoy::model
