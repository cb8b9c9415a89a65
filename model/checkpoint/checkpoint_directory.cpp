#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <cstring>
#include <set>
#include <string_view>
#include <vector>

#include "model/checkpoint/checkpoint_parts.hpp"
#include "model/checkpoint/weight_names.hpp"
#include "model/error.hpp"
#include "model/json.hpp"

namespace convoy::model {

namespace {

namespace json = boost::json;

constexpr size_t shards_max = 4096;

/// A shard is a file of the directory itself: a name that leads anywhere else is refused before it is opened.
void check_shard_name(std::string_view name, const std::string& where) {
  const bool plain = !name.empty() && name != "." && name != ".." && name.find('/') == name.npos &&
                     name.find('\0') == name.npos && name.ends_with(".safetensors");
  if (!plain)
    throw InputError("names the file " + in_quotes(name), where,
                     "a shard is a .safetensors file in the index's own directory");
}

void add_shards(const std::filesystem::path& directory, const OpenFile& open, const Mapping& index_file,
                CheckpointParts& parts) {
  const ShardIndex index = parse_shard_index(index_file.text(), index_file.path().string());
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : index) shards.insert(shard);
  if (shards.size() > shards_max)
    throw InputError(
        "names " + std::to_string(shards.size()) + " files; the limit is " + std::to_string(shards_max),
        index_file.path().string(), "save the checkpoint in fewer shards");
  const std::string mend = "index and shards belong to different checkpoints; fetch them again";
  for (const std::string& shard : shards) {
    auto bytes = open(directory / shard);
    if (!bytes) throw InputError("is missing", (directory / shard).string(), "fetch it again");
    const auto file = SafetensorsFile::parse(std::move(bytes));
    for (const auto& [name, tensor] : file.tensors()) {
      const auto indexed = index.find(name);
      if (indexed == index.end() || indexed->second != shard)
        throw InputError("is in this file, but not in the index under it",
                         (directory / shard).string() + ": tensor " + in_quotes(name), mend);
      parts.tensors.emplace(name, tensor);
    }
    parts.files.emplace_back(shard, file.file());
  }
  for (const auto& [name, shard] : index)
    if (!parts.tensors.contains(name))
      throw InputError("is not in " + in_quotes(shard),
                       index_file.path().string() + ": tensor " + in_quotes(name), mend);
}

bool equal(std::span<const std::byte> a, std::span<const std::byte> b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size()) == 0);
}

/// Reads as far as the two are equal, a piece at a time.
bool same_values(const Tensor& a, const Tensor& b) {
  constexpr size_t piece_bytes = 8 << 20;
  if (a.type != b.type || a.shape != b.shape || !equal(a.scales, b.scales)) return false;
  for (size_t at = 0; at < a.bytes.size(); at += piece_bytes) {
    const size_t size = std::min(piece_bytes, a.bytes.size() - at);
    const auto in_a = a.bytes.subspan(at, size), in_b = b.bytes.subspan(at, size);
    a.owner->will_need(in_a), b.owner->will_need(in_b);
    if (!equal(in_a, in_b)) return false;
    a.owner->forget(in_a), b.owner->forget(in_b);
  }
  return true;
}

/// A head in the file is what the model was saved with, whatever the configuration says of it; transformers 5
/// decides so too. A copy of the embedding is left where it lies.
void keep_own_head(CheckpointParts& parts) {
  const auto head = parts.tensors.find(names::head.hugging_face),
             embedding = parts.tensors.find(names::embedding.hugging_face);
  if (!parts.config.tied_head || head == parts.tensors.end() || embedding == parts.tensors.end()) return;
  if (parts.narrow_scales) parts.narrow_scales->widen(std::array{&head->second, &embedding->second});
  if (same_values(head->second, embedding->second)) return;
  parts.config.tied_head = false;
  parts.notes.emplace_back(
      "tie_word_embeddings is true, but lm_head.weight in the file differs from the embedding: it is used as "
      "the head");
}

}  // namespace

/// They have the weight's name and "_scale_inv" or "_scale". (The former says inverse; what stands there is
/// multiplied.)
void attach_scales(CheckpointParts& parts) {
  TensorMap& tensors = parts.tensors;
  const std::string directory = parts.path.string();
  std::vector<Tensor*> narrow;
  for (auto& [name, tensor] : tensors) {
    const std::string_view suffix = scales_suffix(tensor.type);
    if (suffix.empty()) continue;
    const bool fp8 = tensor.type == DType::f8_e4m3;
    const std::string place = directory + ": tensor " + in_quotes(name);
    const auto scales = tensors.find(name + std::string(suffix));
    if (tensor.shape.size() != 2 || scales == tensors.end())
      throw InputError(tensor.shape.size() != 2 ? "has bytes for values, but is no matrix"
                       : fp8                    ? "is FP8 without its weight_scale_inv"
                                                : "is I8 without its weight_scale",
                       place, "use a checkpoint in DeepSeek's FP8, one of `convoy quantize`, or in bf16");
    const Tensor& found = scales->second;
    if ((found.type != DType::f32 && found.type != DType::bf16) ||
        found.shape != scales_shape(tensor.type, tensor.shape[0], tensor.shape[1]))
      throw InputError(fp8 ? "has scales that are not F32 or BF16, one for each block of 128 by 128"
                           : "has scales that are not F32 or BF16, one for each row",
                       place, "the checkpoint is damaged, or of a kind that Convoy doesn't read");
    tensor.scales = found.bytes;
    tensor.scales_owner = found.owner;
    if (found.type == DType::bf16 && !found.bytes.empty()) narrow.push_back(&tensor);
  }
  if (!narrow.empty()) parts.narrow_scales = std::make_shared<NarrowScales>(narrow, parts.path);
  std::erase_if(tensors, [&](const auto& entry) {
    const std::string_view name = entry.first;
    const auto belongs_to = [&](DType type) {
      const std::string_view suffix = scales_suffix(type);
      if (!name.ends_with(suffix)) return false;
      const auto weight = tensors.find(name.substr(0, name.size() - suffix.size()));
      return weight != tensors.end() && weight->second.type == type;
    };
    return belongs_to(DType::f8_e4m3) || belongs_to(DType::i8);
  });
}

ShardIndex parse_shard_index(std::string_view text, const std::string& where) {
  const json::value root = parse_json(text, where);
  const json::value* map = root.is_object() ? root.get_object().if_contains("weight_map") : nullptr;
  if (!map || !map->is_object()) throw InputError("has no weight_map", where, "fetch the index again");
  ShardIndex result;
  for (const auto& [tensor, shard] : map->get_object()) {
    const std::string name(tensor.data(), tensor.size());
    const std::string entry = where + ": tensor " + in_quotes(name);
    if (!shard.is_string()) throw InputError("has no file name", entry, "fetch the index again");
    const std::string_view value(shard.get_string().data(), shard.get_string().size());
    check_shard_name(value, entry);
    result.emplace(name, value);
  }
  return result;
}

CheckpointParts list_directory(const std::filesystem::path& directory, const OpenFile& open) {
  CheckpointParts parts;
  parts.path = directory;
  const auto add = [&](const char* name) {
    auto file = open(directory / name);
    if (file) parts.files.emplace_back(name, file);
    return file;
  };
  const auto config = add("config.json");
  if (!config)
    throw InputError("has no config.json", directory.string(),
                     "give a checkpoint's directory or a GGUF file");
  const auto generation = add("generation_config.json");
  parts.config =
      parse_config_json(config->text(), generation ? generation->text() : "", config->path().string());

  const char* const single = "model.safetensors";
  const char* const index = "model.safetensors.index.json";
  if (const auto weights = add(single))
    parts.tensors = SafetensorsFile::parse(weights).tensors();
  else if (const auto shards = add(index))
    add_shards(directory, open, *shards, parts);
  else
    throw InputError("has neither model.safetensors nor model.safetensors.index.json", directory.string(),
                     "fetch the weights as safetensors");
  return parts;
}

CheckpointParts read_directory(const std::filesystem::path& directory) {
  CheckpointParts parts = list_directory(directory, open_file);
  attach_scales(parts);
  keep_own_head(parts);
  return parts;
}

}  // namespace convoy::model
