#pragma once
// Experts for rows to go to, whatever their scores say.

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include "model/config.hpp"

namespace convoy::gpu::test {

/// [layers with experts, rows, experts of a row], ascending in each row.
inline std::vector<int32_t> random_routing(int64_t layers_with_experts, int64_t rows,
                                           const model::Routing& routing, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> all(static_cast<size_t>(routing.experts)), chosen;
  std::iota(all.begin(), all.end(), 0);
  for (int64_t i = 0; i < layers_with_experts * rows; i++)
    std::ranges::sample(all, std::back_inserter(chosen), routing.chosen, random);
  return chosen;
}

}  // namespace convoy::gpu::test
