#include "actors/schedule/block_keys.hpp"

#include <cstring>

#include "actors/process/secret.hpp"

namespace convoy::actors {

namespace {

BlockKey key_of(const std::string& mac) {
  BlockKey key;
  std::memcpy(&key, mac.data(), sizeof key);
  return key;
}

}  // namespace

BlockKey BlockKeys::root(std::string_view salt) const { return key_of(hmac_sha256(secret_, salt)); }

BlockKey BlockKeys::next(const BlockKey& before, std::span<const int32_t> tokens) const {
  std::string message(sizeof before + tokens.size_bytes(), '\0');
  std::memcpy(message.data(), &before, sizeof before);
  std::memcpy(message.data() + sizeof before, tokens.data(), tokens.size_bytes());
  return key_of(hmac_sha256(secret_, message));
}

}  // namespace convoy::actors
