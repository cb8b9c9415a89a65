#pragma once
// Which tensors a stage's layers are made of, under either naming, each held against the shape that the
// configuration gives. Internal to model/.

#include <map>
#include <set>
#include <string>
#include <vector>

#include "model/checkpoint/checkpoint_parts.hpp"

namespace convoy::model {

/// The names that were used.
using UsedTensors = std::set<std::string, std::less<>>;

/// By name, those that kernels cannot load from where they lie in the file.
using AlignedCopies = std::map<std::string, Tensor, std::less<>>;

/// Throws InputError that names the tensor which is missing, or has another shape or an impossible type. With
/// `copies`, what lies at an odd address is copied there, and every tensor can be computed with; without, no
/// page of a weight is touched.
StageWeights collect_weights(const CheckpointParts& parts, LayerRange range, UsedTensors& used,
                             AlignedCopies* copies = nullptr);

/// Fills in the scales that the checkpoint has in BF16: without it, those of what was collected are empty.
void widen_scales(const CheckpointParts& parts, const UsedTensors& used);

/// A tensor that a configuration asks for, under the name that Hugging Face's layout gives it.
struct WantedTensor {
  std::string name;
  std::vector<int64_t> shape;
  bool plain = false;  // norms, biases and routers are never quantised
};

/// Everything that a checkpoint of this configuration consists of, layer by layer, each tensor once.
std::vector<WantedTensor> list_weights(const Config& config);

/// Numbers in it, whatever their type.
uint64_t value_count(const Tensor& tensor);

/// "FILE: tensor "NAME"", for messages.
std::string tensor_place(const CheckpointParts& parts, std::string_view name);

}  // namespace convoy::model
