// A checkpoint whose files are elsewhere. Their headers are laid into memory of the files' sizes, which costs
// nothing where nothing is written, and parsed there; the tensors that a stage asks for then take their bytes
// from the store.

#include <algorithm>
#include <cassert>
#include <cstring>
#include <optional>

#include "model/checkpoint/checkpoint_parts.hpp"
#include "model/checkpoint/checkpoint_weights.hpp"
#include "model/checkpoint/weight_outline.hpp"
#include "model/error.hpp"
#include "model/json.hpp"
#include "model/tokenizer/tokenizer_parts.hpp"

namespace convoy::model {

namespace {

namespace fs = std::filesystem;

const char* const outline_mend = "run one version of Convoy on all machines, and look at the head's log";

bool is_plain_file_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == name.npos &&
         name.find('\0') == name.npos;
}

std::shared_ptr<const Mapping> lay_out(const WeightOutline::File& file, const fs::path& path) {
  if (file.bytes == 0 || file.bytes > outlined_file_bytes_max)
    throw InputError("says that it has " + std::to_string(file.bytes) + " bytes", path.string(),
                     outline_mend);
  std::span<std::byte> memory;
  auto mapping = Mapping::reserve(file.bytes, path, memory);
  for (const auto& part : file.parts) {
    if (part.begin > file.bytes || part.bytes.size() > file.bytes - part.begin)
      throw InputError("has a header beyond its end", path.string(), outline_mend);
    if (!part.bytes.empty()) std::memcpy(memory.data() + part.begin, part.bytes.data(), part.bytes.size());
  }
  return mapping;
}

/// As the files would be read, but for what their weights' bytes would decide.
CheckpointParts read_outline(const WeightOutline& outline) {
  const fs::path root = is_plain_file_name(outline.name) ? outline.name : "the head's model";
  const fs::path folder = outline.gguf ? fs::path() : root;
  if (outline.files.empty() || outline.files.size() > outline_files_max)
    throw InputError("has " + std::to_string(outline.files.size()) + " files", root.string(), outline_mend);
  uint64_t bytes = 0;
  std::map<fs::path, std::shared_ptr<const Mapping>> files;
  for (const auto& file : outline.files) {
    for (const auto& part : file.parts) bytes += part.bytes.size();
    if (!is_plain_file_name(file.name) || bytes > outline_bytes_max)
      throw InputError("has files of odd names, or headers of more than " +
                           std::to_string(outline_bytes_max >> 20) + " MiB",
                       root.string(), outline_mend);
    const fs::path path = folder / file.name;
    files[path] = lay_out(file, path);
  }
  const OpenFile open = [&](const fs::path& path) {
    const auto found = files.find(path);
    return found == files.end() ? nullptr : found->second;
  };
  CheckpointParts parts =
      outline.gguf ? read_gguf(files.begin()->second, open) : list_directory(folder, open);
  if (!outline.gguf) parts.config.tied_head = outline.tied_head;
  parts.files.clear();
  return parts;
}

class Stored final : public StoredCheckpoint {
 public:
  Stored(const WeightOutline& outline, Find find)
      : digest_(outline.digest),
        find_(std::move(find)),
        listed_(read_outline(outline)),
        joined_(join(listed_)),
        tokenizer_texts_(tokenizer_texts(outline)) {}

  const Config& config() const override { return listed_.config; }
  const fs::path& path() const override { return listed_.path; }
  bool is_gguf() const override { return listed_.naming == Naming::gguf; }
  const GgufMetadata& metadata() const override { return listed_.metadata; }
  const NamedFiles& files() const override { return listed_.files; }
  std::string weights_digest(std::stop_token) const override { return digest_; }
  std::shared_ptr<const Tokenizer> tokenizer() const override {
    if (is_gguf())
      return has_tokenizer_gguf(metadata()) ? make_tokenizer(read_tokenizer_gguf(metadata(), path().string()))
                                            : nullptr;
    if (!tokenizer_texts_.contains(tokenizer_files.front())) return nullptr;
    return make_tokenizer(read_tokenizer_json(
        path() / tokenizer_files.front(), [&](const fs::path& file) -> std::optional<std::string> {
          const auto found = tokenizer_texts_.find(file.filename().string());
          return found == tokenizer_texts_.end() ? std::nullopt : std::optional(found->second);
        }));
  }
  /// Nobody asks on a machine that has not the files.
  uint64_t prediction_parameters() const override { return 0; }

  StageWeights layout(LayerRange range) const override {
    UsedTensors used;
    return collect_weights(joined_, range, used);
  }

  std::vector<NeededTensor> needs(LayerRange range) const override {
    if (range.first < 0 || range.first > range.last || range.last >= config().layers)
      throw InputError("layers " + std::to_string(range.first) + " to " + std::to_string(range.last),
                       "layer range", "the model has " + std::to_string(config().layers));
    std::vector<NeededTensor> needed;
    std::set<std::string, std::less<>> seen;
    for (int64_t n = range.first; n <= range.last; ++n)
      for (const std::string& name : names_of({n, n}))
        if (const auto& bytes = listed_.tensors.at(name).bytes; !bytes.empty() && seen.insert(name).second)
          needed.push_back({name, bytes.size()});
    return needed;
  }

  StageWeights stage(LayerRange range) const override {
    CheckpointParts parts;
    parts.path = listed_.path, parts.naming = listed_.naming, parts.config = listed_.config;
    for (const NeededTensor& needed : needs(range)) {
      Tensor tensor = listed_.tensors.at(needed.name);
      tensor.owner = find_(needed);
      if (!tensor.owner || tensor.owner->bytes().size() != needed.bytes)
        throw InputError("is not in the store of weights", tensor_place(listed_, needed.name),
                         "it was removed meanwhile: raise store.bytes_max, or leave the folder alone");
      tensor.bytes = tensor.owner->bytes();
      parts.tensors.emplace(needed.name, std::move(tensor));
    }
    attach_scales(parts);
    UsedTensors used;
    AlignedCopies copies;
    StageWeights weights = collect_weights(parts, range, used, &copies);
    widen_scales(parts, used);
    return weights;
  }

  /// As FileCheckpoint's, but that what nobody uses is nobody's concern here.
  void check() const {
    UsedTensors used;
    for (int64_t n = 0; n < config().layers; ++n) collect_weights(joined_, {n, n}, used);
  }

 private:
  static std::map<std::string, std::string> tokenizer_texts(const WeightOutline& outline) {
    std::map<std::string, std::string> texts;
    for (const auto& file : outline.files)
      if (std::ranges::find(tokenizer_files, file.name) != tokenizer_files.end() && file.parts.size() == 1)
        texts.emplace(file.name, file.parts.front().bytes);
    return texts;
  }

  static CheckpointParts join(CheckpointParts listed) {
    attach_scales(listed);
    return listed;
  }

  /// What collect_weights() uses, and the scales of that, of one layer of the range.
  std::vector<std::string> names_of(LayerRange layer) const {
    UsedTensors used;
    collect_weights(joined_, layer, used);
    std::vector<std::string> names;
    for (const std::string& name : used) {
      names.push_back(name);
      const std::string_view suffix = scales_suffix(listed_.tensors.at(name).type);
      if (!suffix.empty()) names.push_back(name + std::string(suffix));
    }
    return names;
  }

  const std::string digest_;
  const Find find_;
  const CheckpointParts listed_;                              // tensors as in the files
  const CheckpointParts joined_;                              // with their scales
  const std::map<std::string, std::string> tokenizer_texts_;  // of a directory, by the file's name
};

}  // namespace

std::shared_ptr<const StoredCheckpoint> StoredCheckpoint::open(const WeightOutline& outline, Find find) {
  auto checkpoint = std::make_shared<Stored>(outline, std::move(find));
  checkpoint->check();
  return checkpoint;
}

}  // namespace convoy::model
