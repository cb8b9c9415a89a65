#include "gpu/cpu/rope_table.hpp"

#include <cassert>
#include <cmath>

namespace convoy::gpu {

void RopeTable::set(const model::Rope& rope, int64_t width, int64_t positions) {
  const std::vector<double> frequencies = model::rope_frequencies(rope, width);
  const double magnitude = model::rope_magnitude(rope);
  pairs_ = rope.pairs;
  positions_ = positions;
  half_ = width / 2;
  cos_.clear(), sin_.clear();
  for (auto* table : {&cos_, &sin_}) table->reserve(static_cast<size_t>(positions * half_));
  for (int64_t p = 0; p < positions; ++p)
    for (const double frequency : frequencies) {
      cos_.push_back(static_cast<float>(magnitude * std::cos(static_cast<double>(p) * frequency)));
      sin_.push_back(static_cast<float>(magnitude * std::sin(static_cast<double>(p) * frequency)));
    }
}

void RopeTable::rotate(float* heads, int64_t count, int64_t stride, int64_t position) const {
  assert(position < positions_);
  const float* __restrict cosines = cos_.data() + position * half_;
  const float* __restrict sines = sin_.data() + position * half_;
  const bool split = pairs_ == model::RopePairs::half_split;
  const int64_t step = split ? 1 : 2, apart = split ? half_ : 1;
  for (float* head = heads; head < heads + count * stride; head += stride)
    for (int64_t i = 0; i < half_; ++i) {
      const float a = head[i * step], b = head[i * step + apart];
      head[i * step] = a * cosines[i] - b * sines[i];
      head[i * step + apart] = b * cosines[i] + a * sines[i];
    }
}

}  // namespace convoy::gpu
