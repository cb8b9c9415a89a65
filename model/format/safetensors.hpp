#pragma once
// SafetensorsFile: the tensors of one .safetensors file by name. Used by checkpoints and for golden files.
// Opening reads and checks the header alone. Immutable; any thread may read it.

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "model/mapping.hpp"
#include "model/tensor.hpp"

namespace convoy::model {

using TensorMap = std::map<std::string, Tensor, std::less<>>;

/// The format's own limit on its header, and ours on what the header may hold.
inline constexpr uint64_t safetensors_header_bytes_max = 100'000'000;
inline constexpr size_t safetensors_dims_max = 8;

class SafetensorsFile {
 public:
  /// Throws InputError that names the file and, where there is one, the tensor.
  static SafetensorsFile open(const std::filesystem::path& path) { return parse(Mapping::open(path)); }
  /// The whole parser over any bytes: the entry of the hostile-input tests and of a fuzz target.
  static SafetensorsFile parse(std::shared_ptr<const Mapping> file);

  const TensorMap& tensors() const { return tensors_; }
  bool contains(std::string_view name) const { return tensors_.contains(name); }
  /// Throws InputError when the file has no tensor of that name.
  const Tensor& tensor(std::string_view name) const;
  const std::shared_ptr<const Mapping>& file() const { return file_; }

 private:
  std::shared_ptr<const Mapping> file_;
  TensorMap tensors_;
};

}  // namespace convoy::model
