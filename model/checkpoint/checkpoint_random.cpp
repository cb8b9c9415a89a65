#include <sys/mman.h>
#include <unistd.h>

#include <cassert>
#include <map>
#include <mutex>

#include "model/checkpoint/checkpoint_parts.hpp"
#include "model/checkpoint/checkpoint_weights.hpp"
#include "model/checkpoint/random_model.hpp"
#include "model/digest.hpp"
#include "model/parallel.hpp"

namespace convoy::model {

namespace {

/// The pages that a tensor shares with no other.
void give_back(std::span<const std::byte> bytes) {
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(bytes.data()), end = begin + bytes.size();
  const uintptr_t first = (begin + page - 1) / page * page, last = end / page * page;
  if (first < last) ::madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}

/// Every tensor has its place in memory from the beginning, and its values from when a stage first asks for
/// it until nobody reads them.
class RandomCheckpoint final : public Checkpoint {
 public:
  explicit RandomCheckpoint(const std::string& name) : model_(parse_random_model(name)) {
    parts_.path = name;
    config_json_ = random_config_json(model_);
    parts_.config = parse_config_json(config_json_, "", name);
    wanted_ = list_weights(parts_.config);
    lay_out();
  }

  const Config& config() const override { return parts_.config; }
  const std::filesystem::path& path() const override { return parts_.path; }
  bool is_gguf() const override { return false; }
  const GgufMetadata& metadata() const override { return parts_.metadata; }
  uint64_t prediction_parameters() const override { return 0; }

  StageWeights layout(LayerRange range) const override {
    UsedTensors used;
    return collect_weights(parts_, range, used);
  }

  StageWeights stage(LayerRange range) const override {
    UsedTensors used;
    StageWeights weights = collect_weights(parts_, range, used);
    const std::scoped_lock lock(filling_);
    std::vector<const WantedTensor*> empty;
    for (const WantedTensor& tensor : wanted_)
      if (used.contains(tensor.name) && readers_[tensor.name]++ == 0) empty.push_back(&tensor);
    const std::vector<TensorPart> todo = divide(empty);
    in_parallel(todo.size(), all_cores(), [&](size_t i) { generate(model_, todo[i], memory_of(todo[i])); });
    return weights;
  }

  void release(LayerRange range) const override {
    UsedTensors used;
    collect_weights(parts_, range, used);
    const std::scoped_lock lock(filling_);
    for (const WantedTensor& tensor : wanted_)
      if (used.contains(tensor.name) && --readers_.at(tensor.name) == 0)
        give_back(parts_.tensors.find(tensor.name)->second.bytes);
  }

  const NamedFiles& files() const override { return parts_.files; }

  std::string weights_digest(std::stop_token) const override {
    Sha256 digest;
    digest.update("random weights, generator 1, seed " + std::to_string(model_.seed) + "\n");
    digest.update(config_json_);
    return digest.hex();
  }

 private:
  void lay_out() {
    constexpr size_t alignment = 64;
    const auto bytes_of = [&](const WantedTensor& w) { return *byte_size(stored_type(model_, w), w.shape); };
    size_t bytes = 0;
    const auto place = [&](const WantedTensor& w) {
      const size_t begin = bytes;
      bytes += (bytes_of(w) + alignment - 1) / alignment * alignment;
      return begin;
    };
    for (const WantedTensor& w : wanted_) place(w);
    const auto mapping = Mapping::reserve(bytes, parts_.path, memory_);
    bytes = 0;
    for (const WantedTensor& w : wanted_)
      parts_.tensors.emplace(
          w.name, Tensor{stored_type(model_, w), w.shape, memory_.subspan(place(w), bytes_of(w)), mapping});
  }

  std::span<std::byte> memory_of(const TensorPart& part) const {
    const Tensor& tensor = parts_.tensors.find(part.tensor->name)->second;
    const auto begin = static_cast<size_t>(tensor.bytes.data() - memory_.data());
    return memory_.subspan(begin + static_cast<size_t>(part.first_row) * tensor.row_bytes(),
                           static_cast<size_t>(part.rows) * tensor.row_bytes());
  }

  const RandomModel model_;
  std::string config_json_;
  CheckpointParts parts_;
  std::vector<WantedTensor> wanted_;
  std::span<std::byte> memory_;  // owned by the tensors' mapping
  mutable std::mutex filling_;
  mutable std::map<std::string, uint32_t, std::less<>> readers_;  // those of tensors that have their values
};

}  // namespace

std::shared_ptr<const Checkpoint> open_random(std::string_view name) {
  return std::make_shared<RandomCheckpoint>(std::string(name));
}

}  // namespace convoy::model
