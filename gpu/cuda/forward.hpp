#pragma once
// The forward pass of a layer range as launches on one stream. Owns the range's weights, cache and
// activations. Which kernels are launched, and how large, depends on a step's bucket alone: its launches can
// be captured.

#include <functional>
#include <memory>
#include <vector>

#include "gpu/cuda/attention.hpp"
#include "gpu/cuda/blas.hpp"
#include "gpu/cuda/bucket.hpp"
#include "gpu/cuda/experts.hpp"
#include "gpu/cuda/sample.hpp"
#include "gpu/cuda/weights.hpp"

namespace convoy::cuda {

/// What tools see of a step, and decide: such a step is launched, not captured.
struct StepWatch {
  /// Called behind the launches that make these rows' logits; may be empty.
  std::function<void(int first, int rows, const float* logits)> after_logits;
  /// Called behind the launches that say where the rows of a layer go, which is the so-many-th with
  /// experts; may be empty. experts: [rows, pitch], of each row the chosen ones first.
  std::function<void(int layer, const int32_t* experts, int pitch)> after_routing;
  /// Called behind each group of launches, of a layer or (−1) of none, with the group's name; may be empty.
  std::function<void(const char* group, int64_t layer)> after_group;
  const int32_t* replayed = nullptr;  // on the card, as RoutingTrace has it; nullptr: rows choose
  int64_t replayed_pitch = 0;         // values of a layer
};

class Forward {
 public:
  Forward(const StageShape& shape, const OpenOptions& options)
      : shape_(shape), activations_(options.activations), poison_(options.poison) {
    layers_.resize(static_cast<size_t>(shape.layers));
  }

  void load(int64_t layer, std::span<const WeightRef> parts);
  /// What prepare() takes, without weights. Leaves nothing behind that could compute: for a copy that is
  /// thrown away.
  Needs needs(const DeviceLimits& limits);
  /// Takes all memory that steps will need.
  void prepare(const DeviceLimits& limits, const Rotations& rotations);

  /// Steps of every size were launched once.
  void end_measuring() {
    if (blas_) blas_->end_measuring();
  }
  uint64_t weight_bytes() const { return weights_.bytes(); }

  /// The smallest bucket for a step.
  Bucket bucket(const StepSize& step) const;
  /// Launches a step whose bytes are where the tables say.
  void enqueue(const Bucket& bucket, const RowTables& tables, Sampled* results, cudaStream_t stream,
               const StepWatch& watch = {});
  int layers_with_experts() const;

  /// [rows, hidden]: what the step before the first layer begins with, and what it leaves.
  float* hidden() const { return x_.as<float>(); }
  /// Calls use(where, bytes) for a block's part of each stream of each layer's cache.
  template <class Use>
  void each_stream_of(uint32_t block, const Use& use) const {
    for (const DeviceMemory& stream : cache_) {
      const size_t bytes = stream.bytes() / limits_.kv_blocks;
      use(stream.as<std::byte>() + block * bytes, bytes);
    }
  }

 private:
  struct RowBuffer {
    DeviceMemory memory;
    Activations type = Activations::f32;
    int64_t pitch = 0;
    Rows rows() const { return {memory.as<void>(), type, pitch}; }
    float* f32() const { return memory.as<float>(); }
  };
  /// Float32 values of each row in somebody's buffer.
  struct Values {
    float* data = nullptr;
    int64_t pitch = 0;
    /// What lies `columns` further in each row.
    Values behind(int64_t columns) const { return {data + columns, pitch}; }
  };
  struct Linear {
    Matrix weight;
    const float* bias = nullptr;
  };
  /// What a launch of a step needs to know.
  struct Launch {
    const RowTables& tables;
    RowRange rows;
    Bucket bucket;
    cudaStream_t stream;
    const StepWatch& watch;
    int64_t layer = -1;    // −1: none
    int with_experts = 0;  // layers before it

    void ended(const char* group) const {
      if (watch.after_group) watch.after_group(group, layer);
    }
  };

  void take_activations(const DeviceLimits& limits, Taker& take);
  void take_scratch(const DeviceLimits& limits, Taker& take);
  int64_t kv_block_bytes(DType type) const;
  int64_t attention_blocks_of_row() const;
  int cluster(const Bucket& bucket) const;
  GemmKind kind(int64_t rows) const;
  GemmCall call(const Launch& launch, const RowBuffer& in) const;
  Norm norm(const Launch& launch, const float* weight) const;
  void normalised(GemmCall& call, const Norm& norm, cudaStream_t stream) const;
  void halve(GemmCall& call, const Norm& norm);
  Product onto_x(const Linear& linear) const;
  void grouped_attention(const Launch& launch, const LayerParts& layer);
  void latent_attention(const Launch& launch, const LayerParts& layer);
  void mlp(const Launch& launch, const LayerParts& layer);
  void dense(const Launch& launch, const Linear& gate, const Linear& up, const Linear& down,
             const Norm* before = nullptr, const Norm* after = nullptr);
  void score_experts(const Launch& launch, const LayerParts& layer, const Norm& before);
  void experts(const Launch& launch, const LayerParts& layer, const Norm& before, int32_t shared);
  bool shared_among_experts(const Launch& launch, const LayerParts& layer) const;
  bool streams_experts(const LayerParts& layer) const;
  int streamed_tile(const LayerParts& layer, int64_t rows) const;
  bool fetches_experts(const LayerParts& layer) const;
  void head(const Launch& launch, Sampled* results);
  CacheStream stream(int64_t layer, size_t index) const;

  StageShape shape_;
  Activations activations_;
  bool poison_;
  WeightStore weights_;
  std::vector<LayerParts> layers_;
  LayerParts ends_;
  std::unique_ptr<Blas> blas_;  // if there is one, for steps of many rows
  DeviceMemory expanded_;       // with it: weights that it does not take, a part at a time
  DeviceLimits limits_;

  DeviceMemory x_;        // [rows, hidden], float32: what each layer adds to
  DeviceMemory squares_;  // of x, by tiles
  NormHalves halves_;     // tiles > 0: h_ has the first half of this norm
  // Rows that products read are in the activations' type, what they give is float32.
  // What is computed of the same rows lies side by side: products that are joined give it at once.
  RowBuffer h_, projected_, q_a_, q_, absorbed_, latents_, attended_, gates_, gated_;
  RowBuffer router_, gathered_, expert_gates_, expert_gated_, expert_out_;
  RowBuffer head_in_, logits_;
  DeviceMemory counts_, partial_, arrived_, cosines_, sines_;
  RotationView rotations_;
  std::vector<DeviceMemory> routing_memory_;
  RoutingTables routing_;
  std::vector<DeviceMemory> cache_;  // [layers · streams]
  bool on_tensor_cores_ = false;
  ClusterRoom cluster_room_{};
  int part_tokens_ = 0, parts_max_ = 1, head_rows_ = 0;
};

}  // namespace convoy::cuda
