#pragma once
// From what a checkpoint says to what a device is told: its layers' shape and weights as plain data. Pure.

#include <vector>

#include "gpu/device.hpp"
#include "model/checkpoint/checkpoint.hpp"

namespace convoy::gpu {

StageShape stage_shape(const model::Config& config, model::LayerRange range, bool deterministic);

/// A layer's weights; and those of no layer. They point into the tensors' bytes.
std::vector<WeightRef> parts_of(const model::LayerWeights& weights);
std::vector<WeightRef> end_parts_of(const model::StageWeights& weights);

/// Owns what Rotations points to.
class RotationTable {
 public:
  /// width: rotated values of a head.
  RotationTable(const model::Rope& rope, int64_t width, int64_t positions);
  Rotations view() const { return {cosines_, sines_, half_, pairs_}; }

 private:
  std::vector<float> cosines_, sines_;
  int64_t half_;
  model::RopePairs pairs_;
};

}  // namespace convoy::gpu
