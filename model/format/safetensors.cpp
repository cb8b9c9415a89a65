#include "model/format/safetensors.hpp"

#include <algorithm>
#include <boost/json.hpp>
#include <cstring>
#include <optional>
#include <vector>

#include "model/error.hpp"
#include "model/json.hpp"

namespace convoy::model {

namespace {

namespace json = boost::json;

constexpr size_t length_bytes = 8;  // the header's length, little-endian, in front of it
const char* const mend = "fetch the file again or save it with a current safetensors";

/// What the header says of one tensor; offsets count from the end of the header.
struct Entry {
  const Tensor* tensor;
  const std::string* name;
  uint64_t begin, end;
};

std::optional<DType> dtype_of(std::string_view name) {
  for (const DType type : {DType::f32, DType::f16, DType::bf16, DType::f8_e4m3, DType::i8, DType::i64})
    if (info(type).name == name) return type;
  return std::nullopt;
}

std::optional<uint64_t> count_of(const json::value& value) {
  if (const auto* number = value.if_uint64()) return *number;
  if (const auto* number = value.if_int64(); number && *number >= 0) return static_cast<uint64_t>(*number);
  return std::nullopt;
}

std::string_view header_of(const Mapping& file) {
  const std::string_view text = file.text();
  const std::string where = file.path().string();
  if (text.size() < length_bytes)
    throw InputError("is too short for safetensors: " + std::to_string(text.size()) + " bytes", where, mend);
  uint64_t header_bytes;
  std::memcpy(&header_bytes, text.data(), length_bytes);
  if (header_bytes > safetensors_header_bytes_max || header_bytes > text.size() - length_bytes)
    throw InputError("says its header has " + std::to_string(header_bytes) + " bytes; the file has " +
                         std::to_string(text.size()) + " and the limit is " +
                         std::to_string(safetensors_header_bytes_max),
                     where, mend);
  return text.substr(length_bytes, header_bytes);
}

const json::value& field(const json::object& object, std::string_view key, const std::string& where) {
  const json::value* value = object.if_contains({key.data(), key.size()});
  if (!value) throw InputError("has no " + in_quotes(key), where, mend);
  return *value;
}

std::vector<int64_t> shape_of(const json::value& value, const std::string& where) {
  const json::array* dims = value.if_array();
  if (!dims || dims->size() > safetensors_dims_max)
    throw InputError("shape is not a list of at most " + std::to_string(safetensors_dims_max) + " dimensions",
                     where, mend);
  std::vector<int64_t> shape;
  for (const json::value& dim : *dims) {
    const auto count = count_of(dim);
    if (!count || *count > static_cast<uint64_t>(INT64_MAX))
      throw InputError("shape has the dimension " + json::serialize(dim), where, mend);
    shape.push_back(static_cast<int64_t>(*count));
  }
  return shape;
}

/// One tensor of the header, its size held against type, shape and the file.
Tensor read_tensor(const json::value& value, std::span<const std::byte> data, const std::string& where) {
  const json::object* object = value.if_object();
  if (!object) throw InputError("is not described by an object", where, mend);
  const json::string* dtype = field(*object, "dtype", where).if_string();
  const auto type = dtype ? dtype_of({dtype->data(), dtype->size()}) : std::nullopt;
  if (!type)
    throw InputError("has the type " + (dtype ? in_quotes({dtype->data(), dtype->size()}) : "of no name"),
                     where, "F32, F16, BF16, F8_E4M3, I8 and I64 are understood; convert the checkpoint");
  Tensor tensor{*type, shape_of(field(*object, "shape", where), where), {}, nullptr};
  const json::array* offsets = field(*object, "data_offsets", where).if_array();
  const auto begin = offsets && offsets->size() == 2 ? count_of((*offsets)[0]) : std::nullopt;
  const auto end = offsets && offsets->size() == 2 ? count_of((*offsets)[1]) : std::nullopt;
  if (!begin || !end || *begin > *end || *end > data.size())
    throw InputError("data_offsets are not two offsets, in order, within the " + std::to_string(data.size()) +
                         " bytes of data",
                     where, mend);
  if (byte_size(tensor.type, tensor.shape) != *end - *begin)
    throw InputError("takes " + std::to_string(*end - *begin) + " bytes, which its type and shape don't give",
                     where, mend);
  tensor.bytes = data.subspan(*begin, *end - *begin);
  return tensor;
}

/// The format allows neither holes nor overlaps: sorted, each tensor begins where the one before it ends.
void check_layout(const TensorMap& tensors, std::span<const std::byte> data, const std::string& where) {
  std::vector<Entry> entries;
  for (const auto& [name, tensor] : tensors) {
    const auto begin = static_cast<uint64_t>(tensor.bytes.data() - data.data());
    entries.push_back({&tensor, &name, begin, begin + tensor.bytes.size()});
  }
  std::ranges::sort(entries, [](const Entry& a, const Entry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  uint64_t end = 0;
  for (const Entry& entry : entries) {
    if (entry.begin != end)
      throw InputError("begins at byte " + std::to_string(entry.begin) +
                           " of the data, but the tensor before it ends at " + std::to_string(end),
                       where + ": tensor " + in_quotes(*entry.name), mend);
    end = entry.end;
  }
  if (end != data.size())
    throw InputError(
        "has " + std::to_string(data.size()) + " bytes of data, its tensors " + std::to_string(end), where,
        mend);
}

}  // namespace

SafetensorsFile SafetensorsFile::parse(std::shared_ptr<const Mapping> file) {
  const std::string where = file->path().string();
  const std::string_view header = header_of(*file);
  const auto data = file->bytes().subspan(length_bytes + header.size());
  const json::value root = parse_json(header, where + ": header");
  const json::object* entries = root.if_object();
  if (!entries) throw InputError("header is not a JSON object", where, mend);

  SafetensorsFile result;
  for (const auto& [key, value] : *entries) {
    if (key == "__metadata__") continue;  // free text for people
    const std::string name(key.data(), key.size());
    Tensor tensor = read_tensor(value, data, where + ": tensor " + in_quotes(name));
    tensor.owner = file;
    result.tensors_.emplace(name, std::move(tensor));
  }
  check_layout(result.tensors_, data, where);
  result.file_ = std::move(file);
  return result;
}

const Tensor& SafetensorsFile::tensor(std::string_view name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end())
    throw InputError("has no tensor " + in_quotes(name), file_->path().string(), "give a file that holds it");
  return found->second;
}

}  // namespace convoy::model
