// A .safetensors file: its header, and views into its data.

#include "model/format/safetensors.hpp"

#include "test/fuzz/target.hpp"

using namespace convoy;
using namespace convoy::fuzz;

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = file_of(data, size);
  if (!file) return 0;
  return load_or_refuse([&] {
    const auto parsed = model::SafetensorsFile::parse(file);
    size_t bytes = 0;
    for (const auto& [name, tensor] : parsed.tensors()) {
      bytes += tensor.bytes.size();
      demand(model::byte_size(tensor.type, tensor.shape) == tensor.bytes.size(),
             "a tensor has its shape's bytes");
      if (tensor.shape.size() <= 2 && !tensor.bytes.empty()) read_all(tensor);
    }
    demand(bytes <= size, "tensors don't overlap");
  });
}
