#pragma once
// What the two kinds of checkpoint read from their files, before the common checks of checkpoint.cpp.
// Internal to model/, and to tests and fuzz targets that bring bytes instead of files.

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/checkpoint/checkpoint.hpp"
#include "model/checkpoint/narrow_scales.hpp"
#include "model/format/gguf.hpp"
#include "model/format/safetensors.hpp"
#include "model/mapping.hpp"

namespace convoy::model {

/// How a kind of checkpoint calls its tensors.
enum class Naming : uint8_t { hugging_face, gguf };

struct CheckpointParts {
  std::filesystem::path path;
  Naming naming = Naming::hugging_face;
  Config config;
  TensorMap tensors;
  std::shared_ptr<const NarrowScales> narrow_scales;  // if there are any
  GgufMetadata metadata;
  /// Every file that shapes the result, under the name that goes into the digest, in order.
  NamedFiles files;
  std::vector<std::string> notes;
};

/// Tensor → file of the same directory.
using ShardIndex = std::map<std::string, std::string, std::less<>>;
/// A model.safetensors.index.json; `where` names it in messages. Throws InputError.
ShardIndex parse_shard_index(std::string_view text, const std::string& where);

/// A directory or a GGUF file, whichever it is.
CheckpointParts read_parts(const std::filesystem::path& path);
CheckpointParts read_directory(const std::filesystem::path& directory);
/// The same, of files that need not lie there, before anything is made of its tensors.
CheckpointParts list_directory(const std::filesystem::path& directory, const OpenFile& open);
/// Joins each FP8 and each I8 weight with its scales, which stand beside it.
void attach_scales(CheckpointParts& parts);
/// A GGUF, with its other parts if it has any.
CheckpointParts read_gguf(std::shared_ptr<const Mapping> file, const OpenFile& open = open_file);

/// Random weights in memory, made when a stage asks for them. Throws InputError.
std::shared_ptr<const Checkpoint> open_random(std::string_view name);

/// Checks that the tensors are those that the configuration asks for, each of its shape, and no others.
std::shared_ptr<const Checkpoint> make_checkpoint(CheckpointParts parts);

}  // namespace convoy::model
