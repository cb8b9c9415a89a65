#include "gpu/weight_pages.hpp"

#include <numeric>
#include <set>

#include "gpu/stage_shape.hpp"
#include "model/mapping.hpp"

namespace convoy::gpu {

WeightPages::WeightPages(const model::StageWeights& weights) {
  for (const model::LayerWeights& layer : weights.layers) layers_.push_back(parts_of(layer));
  layers_.push_back(end_parts_of(weights));
  bytes_.resize(layers_.size());
  std::set<const std::byte*> counted;  // a tied head is the embedding
  for (size_t i = 0; i < layers_.size(); i++)
    for (const WeightRef& part : layers_[i])
      if (counted.insert(part.bytes.data()).second) bytes_[i] += part.bytes.size() + part.scales.size();
}

uint64_t WeightPages::bytes() const { return std::accumulate(bytes_.begin(), bytes_.end(), uint64_t{0}); }

void WeightPages::announce() const {
  for (const auto& parts : layers_)
    for (const WeightRef& part : parts) model::will_need(part.bytes);
}

void WeightPages::fetch(size_t index) const {
  for (const WeightRef& part : layers_[index]) model::fetch(part.bytes);
}

}  // namespace convoy::gpu
