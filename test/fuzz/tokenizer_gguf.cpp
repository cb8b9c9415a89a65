// The tokenizer that a GGUF's metadata hold, and a text through it.

#include "model/format/gguf.hpp"
#include "model/tokenizer/tokenizer_parts.hpp"
#include "test/fuzz/target.hpp"

using namespace convoy;
using namespace convoy::fuzz;

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = file_of(data, size);
  if (!file) return 0;
  return load_or_refuse([&] {
    const model::GgufFile parsed = model::GgufFile::parse(file);
    check_tokenizer(*model::make_tokenizer(model::read_tokenizer_gguf(parsed.metadata, "fuzzed")));
  });
}
