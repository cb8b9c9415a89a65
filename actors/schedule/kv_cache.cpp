#include "actors/schedule/kv_cache.hpp"

#include <cassert>

namespace convoy::actors {

KvCache::KvCache(uint32_t blocks, const KvTierLimits& tier)
    : blocks_(blocks), tier_(tier.places), limits_(tier) {
  for (Block& block : blocks_) idle_.push_back(block);
}

uint32_t KvCache::take() {
  assert(!idle_.empty());
  Block& block = idle_.front();
  idle_.pop_front();
  if (block.published) {
    published_.erase(block.key);
    block.published = false;
    if (!save(block)) ++forgotten_;
  }
  block.holders = 1;
  return static_cast<uint32_t>(&block - blocks_.data());
}

/// Before it is used for something else. False: the second tier does not keep it.
bool KvCache::save(const Block& block) {
  if (!tier_.exists()) return false;
  if (tier_.find(block.key)) return true;  // it came from there, or was computed once more
  if (moves_.size() >= limits_.moves_per_step) return false;
  const auto number = static_cast<uint32_t>(&block - blocks_.data());
  moves_.push_back({gpu::BlockMove::Way::save, number, tier_.take(block.key)});
  return true;
}

void KvCache::save_ahead() {
  uint32_t ahead = limits_.saved_ahead(), left = limits_.saved_ahead_per_step();
  for (const Block& block : idle_) {
    if (ahead-- == 0 || left == 0) return;
    if (block.published && !tier_.has(block.key)) left -= save(block);
  }
}

bool KvCache::load(uint32_t number, const BlockKey& key) {
  if (moves_.size() >= limits_.moves_per_step) return false;
  const auto place = tier_.find(key);
  if (!place) return false;
  moves_.push_back({gpu::BlockMove::Way::load, number, *place});
  publish(number, key);
  return true;
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
