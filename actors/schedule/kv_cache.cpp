#include "actors/schedule/kv_cache.hpp"

#include <cassert>
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

KvCache::KvCache(uint32_t blocks) : blocks_(blocks) {
  for (Block& block : blocks_) idle_.push_back(block);
}

uint32_t KvCache::take() {
  assert(!idle_.empty());
  Block& block = idle_.front();
  idle_.pop_front();
  if (block.published) {
    published_.erase(block.key);
    block.published = false;
    ++forgotten_;
  }
  block.holders = 1;
  return static_cast<uint32_t>(&block - blocks_.data());
}

std::optional<uint32_t> KvCache::find(const BlockKey& key) {
  const auto found = published_.find(key);
  if (found == published_.end()) return std::nullopt;
  Block& block = blocks_[found->second];
  if (block.holders++ == 0) idle_.erase(idle_.iterator_to(block));
  return found->second;
}

void KvCache::publish(uint32_t number, const BlockKey& key) {
  Block& block = blocks_[number];
  assert(block.holders == 1 && !block.published);
  if (!published_.emplace(key, number).second) return;
  block.published = true;
  block.key = key;
}

void KvCache::release(uint32_t number) {
  Block& block = blocks_[number];
  assert(block.holders > 0);
  if (--block.holders > 0) return;
  if (block.published)
    idle_.push_back(block);
  else
    idle_.push_front(block);
}

}  // namespace convoy::actors
