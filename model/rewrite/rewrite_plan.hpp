#pragma once
// Which tensors a checkpoint written anew has, and how each is made of the source's. Pure: touches no weight
// until a plan's `read` is called. Internal to model/: the rewriter carries a plan out.

#include <functional>
#include <string>
#include <vector>

#include "model/checkpoint/checkpoint_parts.hpp"
#include "model/rewrite/rewrite.hpp"

namespace convoy::model {

/// Fills `out` with whole rows, from `first` on, as float32. Any thread may call it.
using ReadRows = std::function<void(int64_t first, std::span<float> out)>;

struct PlannedTensor {
  std::string name;
  std::vector<int64_t> shape;  // outermost first
  DType type = DType::f32;
  WeightKind kind = WeightKind::rest;
  std::vector<Tensor> sources;  // what `read` reads
  ReadRows read;

  int64_t columns() const { return shape.back(); }
  int64_t rows() const;
  /// The tensor of its scales, if its type has them: name and shape, of float32.
  std::string scales_name() const;
  std::vector<int64_t> scales_shape() const;
};

Naming naming_of(RewriteTarget target);

/// The embedding, each layer, the end: what lies together in the output.
std::vector<std::vector<PlannedTensor>> plan_tensors(const CheckpointParts& source, RewriteTarget target);

}  // namespace convoy::model
