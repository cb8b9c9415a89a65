#pragma once
// GgufFile: metadata and tensors of one GGUF file (versions 2 and 3, little-endian), which may be a part of a
// model (gguf_parts.hpp). Reads and checks the header only. Immutable; any thread may read it.

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "model/format/gguf_value.hpp"
#include "model/format/safetensors.hpp"
#include "model/mapping.hpp"

namespace convoy::model {

/// Limits on what a header may make us allocate. Large real files have 50 keys, 1,200 tensors and a million
/// values.
inline constexpr uint64_t gguf_keys_max = 65'536;
inline constexpr uint64_t gguf_tensors_max = 262'144;
inline constexpr uint64_t gguf_values_max = 8'000'000;  // array elements of all keys together
inline constexpr uint64_t gguf_key_bytes_max = 65'535;  // the format's own
inline constexpr uint64_t gguf_string_bytes_max = 16 << 20;
inline constexpr int gguf_array_depth_max = 4;
inline constexpr uint64_t gguf_alignment_max = 1 << 20;

/// Whether the bytes begin as a GGUF file does.
bool looks_like_gguf(std::span<const std::byte> bytes);

/// The format's number of a tensor's type, if it has one.
std::optional<uint32_t> gguf_number(DType type);

struct GgufFile {
  /// Throws InputError that names the file and, where there is one, the key or tensor.
  static GgufFile open(const std::filesystem::path& path) { return parse(Mapping::open(path)); }
  /// The whole parser over any bytes: the entry of the hostile-input tests and of a fuzz target.
  static GgufFile parse(std::shared_ptr<const Mapping> file);
  /// Only the metadata, whatever the tensors' types.
  static GgufMetadata read_metadata(const std::filesystem::path& path);

  std::shared_ptr<const Mapping> file;
  GgufMetadata metadata;
  TensorMap tensors;
};

}  // namespace convoy::model
