#pragma once
// WeightOutline: what a machine without a model's files has to know of them before it fetches any weight:
// their names, sizes and headers. It is read by the same parsers as the files, which check it as they check
// those. StoredCheckpoint: a checkpoint of an outline and of tensors that were fetched. Any thread.

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "model/checkpoint/checkpoint.hpp"
#include "model/format/safetensors.hpp"

namespace convoy::model {

inline constexpr size_t outline_files_max = 4200;  // shards of a checkpoint, and what is beside them
inline constexpr uint64_t outline_bytes_max = 256ull << 20;      // of all headers
inline constexpr uint64_t outlined_file_bytes_max = 1ull << 44;  // that one file may say it has

struct WeightOutline {
  /// Bytes of a file that are no weights: its header, or all of it.
  struct Part {
    uint64_t begin = 0;
    std::string bytes;
  };
  struct File {
    std::string name;
    uint64_t bytes = 0;
    std::vector<Part> parts;
  };

  std::string digest;  // the checkpoint's
  std::string name;    // of its directory, or of the first GGUF
  bool gguf = false;
  bool tied_head = false;  // what the bytes of a directory's weights decide
  std::vector<File> files;
};

/// By a tensor's name: SHA-256 of its bytes, hex.
using TensorDigests = std::map<std::string, std::string, std::less<>>;

/// A model that comes from files.
WeightOutline outline_of(const Checkpoint& checkpoint, const std::string& digest);

/// Every tensor of the files as it lies there, scales as well, by its name.
TensorMap tensors_in_files(const Checkpoint& checkpoint);

/// A tensor that a stage needs: its name in the files, and its size there.
struct NeededTensor {
  std::string name;
  uint64_t bytes = 0;
  bool operator==(const NeededTensor&) const = default;
};

class StoredCheckpoint : public Checkpoint {
 public:
  /// Where a tensor's bytes are, or null if they were not fetched. Any thread.
  using Find = std::function<std::shared_ptr<const Mapping>(const NeededTensor&)>;
  /// Throws InputError for whatever a file with that header would be refused for.
  static std::shared_ptr<const StoredCheckpoint> open(const WeightOutline& outline, Find find);

  /// What stage() of that range looks for, in the order of its layers.
  virtual std::vector<NeededTensor> needs(LayerRange range) const = 0;
};

}  // namespace convoy::model
