#include "actors/prefix_owners.hpp"

#include <boost/container_hash/hash.hpp>

#include "gpu/step.hpp"

namespace convoy::actors {

uint64_t PrefixOwners::key_of(std::string_view model, std::string_view salt,
                              const capnp::List<int32_t>::Reader& prompt) {
  if (prompt.size() < static_cast<unsigned>(gpu::kv_block_tokens)) return 0;
  size_t hash = 0;
  boost::hash_combine(hash, model);
  boost::hash_combine(hash, salt);
  for (unsigned i = 0; i < static_cast<unsigned>(gpu::kv_block_tokens); ++i)
    boost::hash_combine(hash, prompt[i]);
  return hash == 0 ? 1 : hash;
}

std::string PrefixOwners::find(uint64_t key) {
  const auto found = by_key_.find(key);
  if (found == by_key_.end()) return {};
  by_use_.splice(by_use_.begin(), by_use_, found->second);
  return found->second->replica;
}

void PrefixOwners::set(uint64_t key, const std::string& replica) {
  if (const auto found = by_key_.find(key); found != by_key_.end()) {
    found->second->replica = replica;
    return by_use_.splice(by_use_.begin(), by_use_, found->second);
  }
  by_use_.push_front({key, replica});
  by_key_.emplace(key, by_use_.begin());
  if (by_use_.size() <= entries_max) return;
  by_key_.erase(by_use_.back().key);
  by_use_.pop_back();
}

}  // namespace convoy::actors
