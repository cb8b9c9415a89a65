#include "model/checkpoint/weight_outline.hpp"

#include <algorithm>
#include <set>

#include "model/checkpoint/weight_names.hpp"
#include "model/error.hpp"
#include "model/format/gguf.hpp"
#include "model/tokenizer/tokenizer_parts.hpp"

namespace convoy::model {

namespace {

TensorMap tensors_in(const std::string& name, const std::shared_ptr<const Mapping>& file, bool gguf) {
  if (gguf) return GgufFile::parse(file).tensors;
  return name.ends_with(".safetensors") ? SafetensorsFile::parse(file).tensors() : TensorMap{};
}

WeightOutline::Part part_of(const Mapping& file, std::span<const std::byte> bytes) {
  return {static_cast<uint64_t>(bytes.data() - file.bytes().data()),
          std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size())};
}

}  // namespace

WeightOutline outline_of(const Checkpoint& checkpoint, const std::string& digest) {
  WeightOutline outline{digest, checkpoint.path().filename().string(), checkpoint.is_gguf(),
                        checkpoint.config().tied_head};
  for (const auto& [name, file] : checkpoint.files()) {
    const auto bytes = file->bytes();
    const TensorMap tensors = tensors_in(name, file, outline.gguf);
    size_t header = bytes.size();
    for (const auto& [tensor_name, tensor] : tensors)
      header = std::min(header, static_cast<size_t>(tensor.bytes.data() - bytes.data()));
    auto& to = outline.files.emplace_back(WeightOutline::File{name, bytes.size(), {}});
    to.parts.push_back(part_of(*file, bytes.first(header)));
    // Of the configuration, although it lies among the weights.
    if (const auto divisors = tensors.find(names::rope_divisors); outline.gguf && divisors != tensors.end())
      to.parts.push_back(part_of(*file, divisors->second.bytes));
  }
  // A gateway may run where no weights are.
  for (const char* const name : tokenizer_files)
    if (!outline.gguf)
      if (auto text = find_tokenizer_file(checkpoint.path() / name); text && !text->empty()) {
        auto& to = outline.files.emplace_back(WeightOutline::File{name, text->size(), {}});
        to.parts.push_back({0, std::move(*text)});
      }
  return outline;
}

TensorMap tensors_in_files(const Checkpoint& checkpoint) {
  TensorMap all;
  for (const auto& [name, file] : checkpoint.files()) all.merge(tensors_in(name, file, checkpoint.is_gguf()));
  return all;
}

}  // namespace convoy::model
