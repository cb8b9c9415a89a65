// model.safetensors.index.json: which file holds which tensor.

#include "model/checkpoint/checkpoint_parts.hpp"
#include "test/fuzz/target.hpp"

using namespace convoy;
using namespace convoy::fuzz;

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return load_or_refuse([&] {
    for (const auto& [tensor, shard] : model::parse_shard_index(text_of(data, size), "fuzzed"))
      demand(shard.find('/') == shard.npos && shard.ends_with(".safetensors"),
             "a shard is a file beside its index");
  });
}
