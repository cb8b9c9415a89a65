#pragma once
// KvTier: which place of the stages' second tier holds what block's keys and values. Slower than the blocks
// that steps work on, and larger: what would be forgotten there is kept here. All stages have the same
// places, so one KvTier counts for all; KvCache owns it. Pure, without a clock.

#include <boost/intrusive/list.hpp>
#include <cstdint>
#include <optional>
#include <unordered_map>
#include <vector>

#include "actors/schedule/block_keys.hpp"

namespace convoy::actors {

class KvTier {
 public:
  /// places: of one block each; 0: there is no second tier.
  explicit KvTier(uint32_t places);
  KvTier(const KvTier&) = delete;
  KvTier& operator=(const KvTier&) = delete;

  bool exists() const { return !places_.empty(); }
  bool has(const BlockKey& key) const { return by_key_.contains(key); }
  /// Where that block is kept, which counts as used now.
  std::optional<uint32_t> find(const BlockKey& key);
  /// A place for a block that has none, if there is a second tier: an empty one, else that which was used
  /// longest ago, whose block then is found no more.
  uint32_t take(const BlockKey& key);

 private:
  struct Place : boost::intrusive::list_base_hook<> {
    std::optional<BlockKey> key;
  };
  void use(Place& place);

  std::vector<Place> places_;
  boost::intrusive::list<Place> by_use_;  // the empty ones first, then by their latest use
  std::unordered_map<BlockKey, uint32_t, BlockKey::Hash> by_key_;
};

}  // namespace convoy::actors
