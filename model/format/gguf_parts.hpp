#pragma once
// A GGUF that lies in several files, NAME-00001-of-0000N.gguf and so on: the first has the metadata, each
// some of the tensors, and any of them stands for the whole. Used by checkpoints, and by the tokenizer for
// the metadata alone. Reads and checks headers only.

#include <filesystem>
#include <memory>
#include <string_view>
#include <vector>

#include "model/format/gguf.hpp"

namespace convoy::model {

inline constexpr uint64_t gguf_parts_max = 4096;

struct GgufModel {
  std::vector<std::shared_ptr<const Mapping>> files;  // in order
  GgufMetadata metadata;                              // of the first
  TensorMap tensors;                                  // of all
};

/// What the file holds if it is whole by itself, else what all the parts do that lie beside it. Throws
/// InputError that names a part which is missing or belongs to something else.
GgufModel read_gguf_model(std::shared_ptr<const Mapping> file, const OpenFile& open = open_file);

/// The metadata alone, whatever the tensors' types: of a part, the first part's.
GgufMetadata read_gguf_metadata(const std::filesystem::path& path);

/// "NAME" of "NAME-00002-of-00005"; any other name as it is.
std::string_view without_part(std::string_view stem);

}  // namespace convoy::model
