#pragma once
// The forward pass of a layer range, written once over Backend. Owns the range's weights, its cache of keys
// and values, and the activations' buffers; knows nothing of slots or plans. A device calls it, on its
// thread.

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "gpu/backend.hpp"
#include "gpu/device.hpp"

namespace convoy::gpu {

/// Values in a row of each buffer that the activations of a layer range need; 0: no such buffer.
struct ActivationWidths {
  int64_t hidden = 0;  // of three buffers: the residual stream, what is added to it, its norm
  int64_t q_a = 0, q = 0, k = 0, v = 0, kv_a = 0, attended = 0, gated = 0, logits = 0;
  int64_t sum() const { return 3 * hidden + q_a + q + k + v + kv_a + attended + gated + logits; }
};
ActivationWidths activation_widths(const StageShape& shape);
/// What the range's operations get at most.
StepBounds step_bounds(const StageShape& shape, const DeviceLimits& limits);

class Forward {
 public:
  Forward(Backend& backend, const StageShape& shape)
      : backend_(backend), shape_(shape), layers_(static_cast<size_t>(shape.layers)) {}

  /// As Device::load: every layer once, in any order, and the ends, before open().
  void load(int64_t layer, std::span<const WeightRef> parts);
  /// Takes all the memory that steps will need.
  void open(const DeviceLimits& limits, const Rotations& rotations);

  /// Starts a step from token ids (first stage) or from the hidden states of the stage before, [rows,
  /// hidden].
  void begin(std::span<const int32_t> ids);
  void begin(std::span<const float> hidden);
  /// Runs the layers. The sequences' rows cover the rows of the step.
  void layers(std::span<const SequenceRows> sequences, RoutingTrace trace = {});
  /// The last stage's end: logits of the listed rows, [rows.size(), vocab].
  Rows logits(std::span<const int32_t> rows);
  /// Any other stage's end: hidden states for the next, [rows, hidden].
  Rows hidden();

  /// What the layers keep in a block, stream by stream, for who knows that the backend's memory is the
  /// host's.
  void each_stream_of(uint32_t block, const std::function<void(std::span<std::byte>)>& visit);

 private:
  /// The weights of one layer, or those of none.
  struct Weights {
    std::array<Weight, part_count> parts{};  // without memory: there is none
    std::vector<Weight> expert_gate, expert_up, expert_down;
    const Weight& operator[](Part part) const { return parts[static_cast<size_t>(part)]; }
    bool has(Part part) const { return (*this)[part].memory != nullptr; }
    const Weight* find(Part part) const { return has(part) ? &(*this)[part] : nullptr; }
    Weight& place(const WeightRef& ref);
  };
  struct RowBuffer {
    Buffer memory;
    int64_t width = 0;
    Rows first(int64_t rows) const { return {memory.get(), rows, width}; }
    /// Narrower rows in the same memory.
    Rows first(int64_t rows, int64_t narrower) const { return {memory.get(), rows, narrower}; }
  };

  // Each reads h_; attention leaves its result in attended_, the MLP in delta_.
  void grouped_attention(const Weights& layer, std::span<const SequenceRows> sequences, const KvLayer& cache);
  void latent_attention(const Weights& layer, std::span<const SequenceRows> sequences, const KvLayer& cache);
  void mlp(const Weights& layer, const RoutingTrace& trace);

  Backend& backend_;
  StageShape shape_;
  StepBounds bounds_;
  std::vector<Weights> layers_;
  Weights ends_;
  std::vector<KvLayer> cache_;  // of each layer
  // x: the residual stream; delta: what the latest block adds to it; h: normalised rows
  RowBuffer x_, delta_, h_, q_a_, q_, k_, v_, kv_a_, attended_, gated_, logits_;
  int64_t rows_ = 0;  // of the step that runs
};

}  // namespace convoy::gpu
