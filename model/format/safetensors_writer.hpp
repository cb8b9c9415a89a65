#pragma once
// What every safetensors file that we write begins with, and how shards are called and listed. Internal to
// model/: rewritten checkpoints and made ones share it.

#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "model/tensor.hpp"

namespace convoy::model {

/// Where a tensor's bytes lie behind the header.
struct SafetensorsEntry {
  std::string name;
  DType type;
  std::vector<int64_t> shape;
  uint64_t begin, end;
};

/// The header as the format has it: its length in 8 bytes, then JSON, padded so that the data are aligned.
std::string safetensors_header(std::span<const SafetensorsEntry> entries);

/// "model.safetensors", or of several "model-00001-of-00003.safetensors" with index 0.
std::string shard_name(size_t index, size_t count);

/// The JSON of model.safetensors.index.json: tensor → shard.
std::string shard_index_json(const std::map<std::string, std::string>& shards, uint64_t total_bytes);

/// Writes all of the bytes at an offset, from any thread. False if the system refuses: errno says why.
bool write_all(int fd, std::span<const std::byte> bytes, uint64_t at);

}  // namespace convoy::model
