#include "gateway/random_id.hpp"

#include <openssl/rand.h>

#include <stdexcept>

namespace convoy::gateway {

void random_bytes(void* to, size_t size) {
  if (RAND_bytes(static_cast<unsigned char*>(to), static_cast<int>(size)) != 1)
    throw std::runtime_error("OpenSSL has no random numbers");
}

std::string random_id(std::string_view prefix) {
  unsigned char bytes[12];
  random_bytes(bytes, sizeof bytes);
  std::string id(prefix);
  for (unsigned char b : bytes) {
    id += "0123456789abcdef"[b >> 4];
    id += "0123456789abcdef"[b & 15];
  }
  return id;
}

}  // namespace convoy::gateway
