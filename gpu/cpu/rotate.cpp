#include "gpu/cpu/rotate.hpp"

#include <cassert>

namespace convoy::gpu {

void rotate(const Rotations& rotations, float* heads, int64_t count, int64_t stride, int64_t position) {
  const int64_t half = rotations.half;
  assert((position + 1) * half <= static_cast<int64_t>(rotations.cosines.size()));
  const float* __restrict cosines = rotations.cosines.data() + position * half;
  const float* __restrict sines = rotations.sines.data() + position * half;
  const bool split = rotations.pairs == model::RopePairs::half_split;
  const int64_t step = split ? 1 : 2, apart = split ? half : 1;
  for (float* head = heads; head < heads + count * stride; head += stride)
    for (int64_t i = 0; i < half; ++i) {
      const float a = head[i * step], b = head[i * step + apart];
      head[i * step] = a * cosines[i] - b * sines[i];
      head[i * step + apart] = b * cosines[i] + a * sines[i];
    }
}

}  // namespace convoy::gpu
