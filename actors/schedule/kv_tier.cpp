#include "actors/schedule/kv_tier.hpp"

#include <cassert>

namespace convoy::actors {

KvTier::KvTier(uint32_t places) : places_(places) {
  for (Place& place : places_) by_use_.push_back(place);
}

std::optional<uint32_t> KvTier::find(const BlockKey& key) {
  const auto found = by_key_.find(key);
  if (found == by_key_.end()) return std::nullopt;
  use(places_[found->second]);
  return found->second;
}

uint32_t KvTier::take(const BlockKey& key) {
  assert(exists() && !has(key));
  Place& place = by_use_.front();
  if (place.key) by_key_.erase(*place.key);
  place.key = key;
  const auto number = static_cast<uint32_t>(&place - places_.data());
  by_key_.emplace(key, number);
  use(place);
  return number;
}

void KvTier::use(Place& place) { by_use_.splice(by_use_.end(), by_use_, by_use_.iterator_to(place)); }

}  // namespace convoy::actors
