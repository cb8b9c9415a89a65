// tokenizer.json, and a text through the tokenizer that it describes.

#include "model/tokenizer/tokenizer_parts.hpp"
#include "test/fuzz/target.hpp"

using namespace convoy;
using namespace convoy::fuzz;

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  return load_or_refuse([&] {
    check_tokenizer(*model::make_tokenizer(model::parse_tokenizer_json(text_of(data, size), "fuzzed")));
  });
}
