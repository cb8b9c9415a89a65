#include "model/out_of_memory.hpp"

#include "model/memory_limit.hpp"

namespace convoy {

std::string reason_of(const std::exception& exception) {
  if (!dynamic_cast<const std::bad_alloc*>(&exception)) return exception.what();
  std::string text = "out of memory: ";
  if (const auto* known = dynamic_cast<const OutOfMemory*>(&exception))
    text += std::to_string((known->bytes() + (1 << 20) - 1) >> 20) + " MiB more were wanted, ";
  const model::MemoryLimit available = model::memory_available();
  return text + std::to_string(available.bytes >> 20) + " MiB are available (" + available.set_by +
         "); lower pipeline.kv_tokens, serve a smaller model, or spread the "
         "stages over more machines";
}

}  // namespace convoy
