// A GGUF file as a checkpoint: its metadata, its tensors, and the weights of every layer.

#include "model/format/gguf.hpp"

#include "model/checkpoint/checkpoint_parts.hpp"
#include "test/fuzz/target.hpp"

using namespace convoy;
using namespace convoy::fuzz;

namespace {

/// Decodes every value, of arrays within arrays too: what was checked at first reads without an error.
size_t count_values(const model::GgufValue& value) {
  const auto* array = std::get_if<model::GgufArray>(&value.value);
  if (!array) return 1;
  size_t count = 0, elements = 0;
  for (const model::GgufValue& element : *array) {
    count += count_values(element);
    elements++;
  }
  demand(elements == array->size(), "an array has as many values as it says");
  return count;
}

}  // namespace

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = file_of(data, size);
  if (!file) return 0;
  return load_or_refuse([&] {
    const auto parsed = model::GgufFile::parse(file);
    for (const auto& [key, value] : parsed.metadata) count_values(value);
    for (const auto& [name, tensor] : parsed.tensors)
      if (tensor.shape.size() <= 2) read_all(tensor);
    const auto checkpoint = model::make_checkpoint(model::read_gguf(file));
    const auto weights = checkpoint->stage({0, checkpoint->config().layers - 1});
    demand(weights.embedding && weights.final_norm && weights.head, "the whole model has both its ends");
    demand(static_cast<int64_t>(weights.layers.size()) == checkpoint->config().layers, "and every layer");
    for (const model::LayerWeights& layer : weights.layers)
      demand(layer.q.columns() == checkpoint->config().hidden && !layer.q.bytes.empty(), "of its size");
  });
}
