#include "model/checkpoint/narrow_scales.hpp"

#include <cassert>
#include <cstring>
#include <vector>

namespace convoy::model {

namespace {

void widen_values(std::span<const std::byte> bits, std::span<std::byte> wide) {
  for (size_t i = 0; i < wide.size() / sizeof(float); ++i) {
    uint16_t narrow;
    std::memcpy(&narrow, bits.data() + i * sizeof narrow, sizeof narrow);
    const float scale = bf16_to_f32(narrow);
    std::memcpy(wide.data() + i * sizeof scale, &scale, sizeof scale);
  }
}

}  // namespace

NarrowScales::NarrowScales(std::span<Tensor* const> weights, const std::filesystem::path& checkpoint) {
  size_t bytes = 0;
  for (const Tensor* weight : weights) bytes += 2 * weight->scales.size();
  assert(bytes > 0);
  std::span<std::byte> memory;
  memory_ = Mapping::reserve(bytes, checkpoint, memory);
  for (Tensor* weight : weights) {
    const auto wide = memory.first(2 * weight->scales.size());
    memory = memory.subspan(wide.size());
    empty_.emplace(wide.data(), Narrow{weight->scales, std::move(weight->scales_owner), wide});
    weight->scales = wide;
    weight->scales_owner = memory_;
  }
}

void NarrowScales::widen(std::span<const Tensor* const> weights) const {
  const std::scoped_lock lock(filling_);
  std::vector<decltype(empty_)::iterator> asked;
  for (const Tensor* weight : weights)
    if (const auto found = empty_.find(weight->scales.data()); found != empty_.end()) asked.push_back(found);
  // All are announced before the first is waited for.
  for (const auto& entry : asked) entry->second.owner->will_need(entry->second.bits);
  for (const auto& entry : asked) {
    widen_values(entry->second.bits, entry->second.wide);
    empty_.erase(entry);
  }
}

}  // namespace convoy::model
