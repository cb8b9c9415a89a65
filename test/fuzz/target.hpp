#pragma once
// What the fuzz targets share. A target is one function over the bytes of a file: it loads or throws
// InputError, and what it loaded keeps its promises. libFuzzer calls it with bytes it makes up
// (scripts/fuzz), replay.cpp with those that the corpus keeps (ctest).

#include <sanitizer/asan_interface.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "model/error.hpp"
#include "model/mapping.hpp"
#include "model/tensor.hpp"
#include "model/tokenizer/tokenizer.hpp"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace convoy::fuzz {

inline std::string_view text_of(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

/// Null for no bytes: a file that is empty is refused before it is mapped. AddressSanitizer guards what
/// follows the bytes in their last page.
inline std::shared_ptr<const model::Mapping> file_of(const uint8_t* data, size_t size) {
  if (size == 0) return nullptr;
  const auto file = model::Mapping::copy_of(std::as_bytes(std::span(data, size)), "fuzzed");
  const std::byte* const end = file->bytes().data() + size;
  const size_t page_bytes = static_cast<size_t>(::sysconf(_SC_PAGESIZE)),
               tail_bytes = (page_bytes - size % page_bytes) % page_bytes;
  ASAN_POISON_MEMORY_REGION(end, tail_bytes);
  return {file.get(),
          [file, end, tail_bytes](const model::Mapping*) { ASAN_UNPOISON_MEMORY_REGION(end, tail_bytes); }};
}

/// Ends the process when what was loaded is not what its reader promises.
inline void demand(bool holds, const char* promise) {
  if (holds) return;
  std::cerr << "broken: " << promise << '\n';
  std::abort();
}

/// Reads every value, so that a view that leaves the file is noticed.
inline void read_all(const model::Tensor& tensor) {
  std::vector<float> row(static_cast<size_t>(tensor.columns()));
  for (int64_t i = 0; i < tensor.rows(); ++i) model::dequantize_row(tensor, i, row);
}

/// A text with everything that tokenizers treat apart, there and back.
inline void check_tokenizer(const model::Tokenizer& tokenizer) {
  for (const bool trusted : {true, false}) {
    const auto ids = tokenizer.encode("The <|x|> <think> abc 123 é▁\n\n  ab<s>漢</s> x", trusted);
    for (const int32_t id : ids)
      demand(!tokenizer.bytes(id).empty(), "an id that text becomes stands for bytes");
    tokenizer.decode(ids, true);
  }
}

/// Anything but success and InputError goes through to the fuzzer.
template <class Load>
int load_or_refuse(Load load) {
  try {
    load();
  } catch (const InputError& error) {
    demand(!error.problem().empty() && !error.where().empty(), "an error says what is wrong and where");
  }
  return 0;
}

}  // namespace convoy::fuzz
