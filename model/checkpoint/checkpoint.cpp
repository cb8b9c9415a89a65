#include "model/checkpoint/checkpoint.hpp"

#include <algorithm>
#include <charconv>
#include <system_error>

#include "model/checkpoint/checkpoint_parts.hpp"
#include "model/checkpoint/checkpoint_weights.hpp"
#include "model/checkpoint/random_model.hpp"
#include "model/digest.hpp"
#include "model/error.hpp"
#include "model/json.hpp"
#include "model/tokenizer/tokenizer_parts.hpp"

namespace convoy::model {

namespace {

/// What weights_digest() asks the kernel to read at once.
constexpr size_t digest_chunk_bytes = 8 << 20;

class FileCheckpoint final : public Checkpoint {
 public:
  explicit FileCheckpoint(CheckpointParts parts) : parts_(std::move(parts)) {}

  const Config& config() const override { return parts_.config; }
  const std::filesystem::path& path() const override { return parts_.path; }
  bool is_gguf() const override { return parts_.naming == Naming::gguf; }
  const GgufMetadata& metadata() const override { return parts_.metadata; }
  std::vector<std::string> notes() const override { return parts_.notes; }

  StageWeights stage(LayerRange range) const override {
    UsedTensors used;
    AlignedCopies copies;
    StageWeights weights = collect_weights(parts_, range, used, &copies);
    widen_scales(parts_, used);
    return weights;
  }

  StageWeights layout(LayerRange range) const override {
    UsedTensors used;
    return collect_weights(parts_, range, used);
  }

  uint64_t prediction_parameters() const override {
    uint64_t count = 0;
    for (const auto& [name, tensor] : parts_.tensors)
      if (is_prediction(name)) count += value_count(tensor);
    return count;
  }

  const NamedFiles& files() const override { return parts_.files; }

  std::string weights_digest(std::stop_token stop) const override {
    Sha256 digest;
    for (const auto& [name, file] : parts_.files) {
      // A GGUF's digest is that of its one file, as sha256sum gives it. Several files are framed by name and
      // size, so that no other division of the same bytes has the same digest.
      if (parts_.files.size() > 1) digest.update(name + '\0' + std::to_string(file->bytes().size()) + '\0');
      const auto bytes = file->bytes();
      for (size_t at = 0; at < bytes.size(); at += digest_chunk_bytes) {
        if (stop.stop_requested()) return {};
        const auto chunk = bytes.subspan(at, std::min(digest_chunk_bytes, bytes.size() - at));
        file->will_need(chunk);
        digest.update(chunk);
      }
    }
    return digest.hex();
  }

  /// Collects every weight once, so that a bad one is found when the checkpoint is opened, and refuses
  /// tensors that nothing uses: they would change the result if we knew what they are. Touches no page of a
  /// weight.
  void check() const {
    UsedTensors used;
    // One at a time: described all at once, small experts take more memory than the file has bytes.
    for (int64_t n = 0; n < parts_.config.layers; ++n) collect_weights(parts_, {n, n}, used);
    for (const auto& [name, tensor] : parts_.tensors)
      if (!used.contains(name) && !is_harmless(name))
        throw InputError("is not a weight of " + parts_.config.architecture, tensor_place(parts_, name),
                         "Convoy would ignore it, and may not: use a plain checkpoint of this architecture");
  }

 private:
  /// Tensors that checkpoints carry beside the weights: tables derived from the configuration, the frequency
  /// divisors (already in the configuration), the copy of a tied head, and layers that predict further
  /// tokens.
  bool is_harmless(std::string_view name) const {
    if (parts_.naming == Naming::gguf) return name == "rope_freqs.weight";
    if (name.ends_with(".rotary_emb.inv_freq")) return true;
    if (parts_.config.tied_head && name == "lm_head.weight") return true;
    return is_prediction(name);
  }

  bool is_prediction(std::string_view name) const {
    constexpr std::string_view prefix = "model.layers.";
    if (!name.starts_with(prefix)) return false;
    const char* const end = name.data() + name.size();
    int64_t layer = 0;
    const auto digits = std::from_chars(name.data() + prefix.size(), end, layer);
    const int64_t predicted = layer - parts_.config.layers;
    return digits.ec == std::errc() && digits.ptr != end && *digits.ptr == '.' && predicted >= 0 &&
           predicted < parts_.config.prediction_layers;
  }

  CheckpointParts parts_;
};

}  // namespace

std::shared_ptr<const Checkpoint> make_checkpoint(CheckpointParts parts) {
  auto checkpoint = std::make_shared<FileCheckpoint>(std::move(parts));
  checkpoint->check();
  return checkpoint;
}

CheckpointParts read_parts(const std::filesystem::path& path) {
  std::error_code ignored;  // a path that can't be looked at is reported by Mapping::open
  if (std::filesystem::is_directory(path, ignored)) return read_directory(path);
  auto file = Mapping::open(path);
  if (!looks_like_gguf(file->bytes()))
    throw InputError("is not a GGUF file", path.string(),
                     "give a GGUF file, or the directory that holds config.json and the safetensors");
  return read_gguf(std::move(file));
}

bool Checkpoint::has_tokenizer() const {
  std::error_code ignored;  // a directory that cannot be looked at has none
  return is_gguf() ? has_tokenizer_gguf(metadata())
                   : std::filesystem::exists(path() / "tokenizer.json", ignored);
}

std::shared_ptr<const Tokenizer> Checkpoint::tokenizer() const {
  return has_tokenizer() ? Tokenizer::load(path()) : nullptr;
}

bool Checkpoint::is_there(const std::filesystem::path& path) {
  std::error_code ignored;  // what cannot be looked at is there, and open() says why not
  return names_random_model(path.native()) ||
         std::filesystem::status(path, ignored).type() != std::filesystem::file_type::not_found;
}

std::shared_ptr<const Checkpoint> Checkpoint::open(const std::filesystem::path& path) {
  if (names_random_model(path.native())) return open_random(path.native());
  return make_checkpoint(read_parts(path));
}

}  // namespace convoy::model
