#include "model/out_of_memory.hpp"

#include <fstream>

namespace convoy {

namespace {

/// MemAvailable of /proc/meminfo, in MiB; 0 if the system does not say.
uint64_t available_mib() {
  std::ifstream file("/proc/meminfo");
  for (std::string name; file >> name;) {
    uint64_t kib = 0;
    if (name == "MemAvailable:" && file >> kib) return kib >> 10;
    file.ignore(256, '\n');
  }
  return 0;
}

}  // namespace

std::string reason_of(const std::exception& exception) {
  if (!dynamic_cast<const std::bad_alloc*>(&exception)) return exception.what();
  std::string text = "out of memory: ";
  if (const auto* known = dynamic_cast<const OutOfMemory*>(&exception))
    text += std::to_string((known->bytes() + (1 << 20) - 1) >> 20) + " MiB more were wanted, ";
  return text + std::to_string(available_mib()) +
         " MiB are available (MemAvailable); lower pipeline.kv_tokens, serve a smaller model, or spread the "
         "stages "
         "over more machines";
}

}  // namespace convoy
