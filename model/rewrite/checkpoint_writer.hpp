#pragma once
// Writes a model of random weights as a checkpoint's directory in Hugging Face's layout: shards one after the
// other, each a few megabytes at a time from all cores. `convoy make-model` calls it.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "model/checkpoint/random_model.hpp"

namespace convoy::model {

inline constexpr uint64_t shard_bytes_max = 5'000'000'000;

/// One safetensors file before it is written.
struct Shard {
  struct Entry {
    WantedTensor tensor;
    DType type;
    uint64_t begin = 0, end = 0;  // in the file's data
    uint64_t scales_begin = 0;    // of f8_e4m3: its weight_scale_inv
  };
  std::string file;    // its name
  std::string header;  // everything before the data
  std::vector<Entry> entries;
  uint64_t data_bytes = 0;
};

struct CheckpointPlan {
  std::string config_json;
  std::string index_json;  // empty with a single shard
  std::vector<Shard> shards;
  uint64_t bytes() const;  // of all shards
};
/// Pure. Throws InputError for a model that cannot be made.
CheckpointPlan plan_checkpoint(const RandomModel& model);

/// Throws InputError if the directory is not empty, the disk too small, or a file cannot be written.
/// config.json comes last: without it nothing takes the directory for a checkpoint. progress(bytes done, of
/// all) comes from this thread, now and then.
void write_checkpoint(const RandomModel& model, const std::filesystem::path& directory,
                      const std::function<void(uint64_t, uint64_t)>& progress);

}  // namespace convoy::model
