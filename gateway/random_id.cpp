#include "gateway/random_id.hpp"

#include <openssl/rand.h>

#include <stdexcept>

namespace convoy::gateway {

void random_bytes(void* to, size_t size) {
  if (RAND_bytes(static_cast<unsigned char*>(to), static_cast<int>(size)) != 1)
    throw std::runtime_error("OpenSSL has no random numbers");
}

std::string random_hex(size_t bytes) {
  std::string random(bytes, '\0'), digits;
  random_bytes(random.data(), random.size());
  for (const unsigned char b : random) {
    digits += "0123456789abcdef"[b >> 4];
    digits += "0123456789abcdef"[b & 15];
  }
  return digits;
}

std::string random_id(std::string_view prefix) { return std::string(prefix) + random_hex(12); }

}  // namespace convoy::gateway
