#include "gpu/token_counts.hpp"

#include <cassert>

namespace convoy::gpu {
namespace {

/// The place of a token or the free one where it belongs.
uint32_t& place_of(int32_t id, std::vector<uint32_t>& places, const std::vector<TokenCounts::Count>& counts) {
  constexpr uint32_t golden_ratio = 0x9E3779B9;
  size_t i = (static_cast<uint32_t>(id) * golden_ratio) >> 4;
  while (uint32_t& place = places[i & (places.size() - 1)]) {
    if (counts[place - 1].id == id) return place;
    i++;
  }
  return places[i & (places.size() - 1)];
}

uint32_t& part_of(TokenCounts::Count& count, TokenCounts::Of part) {
  return part == TokenCounts::Of::prompt ? count.prompt : count.output;
}

}  // namespace

void TokenCounts::add(int32_t id, Of part) { part_of(count_of(id), part)++; }

void TokenCounts::remove(int32_t id, Of part) {
  uint32_t& count = part_of(count_of(id), part);
  assert(count > 0);
  count--;
}

TokenCounts::Count& TokenCounts::count_of(int32_t id) {
  if (2 * counts_.size() >= places_.size()) grow();
  uint32_t& place = place_of(id, places_, counts_);
  if (place == 0) {
    counts_.push_back({.id = id});
    place = static_cast<uint32_t>(counts_.size());
  }
  return counts_[place - 1];
}

void TokenCounts::grow() {
  constexpr size_t places_min = 128;
  places_.assign(places_.empty() ? places_min : 2 * places_.size(), 0);
  for (uint32_t i = 0; i < counts_.size(); i++) place_of(counts_[i].id, places_, counts_) = i + 1;
}

}  // namespace convoy::gpu
