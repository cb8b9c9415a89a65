#pragma once
// The forward pass of a layer range, written once over Backend. Owns the range's weights and the activations'
// buffers; knows nothing of slots or plans. The engine calls it, on its thread.

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "gpu/backend.hpp"
#include "gpu/kv_pool.hpp"
#include "model/checkpoint/checkpoint.hpp"

namespace convoy::gpu {

struct ForwardLimits {
  int64_t rows = 0;            // of one step: buffers are sized for it
  int64_t context_tokens = 0;  // of one sequence
  model::DType kv_type = model::DType::f32;
  bool deterministic = false;  // latent attention is always absorbed, however many rows a sequence brings
};

/// Values in a row of each buffer that the activations of a layer range need; 0: no such buffer.
struct ActivationWidths {
  int64_t hidden = 0;  // of three buffers: the residual stream, what is added to it, its norm
  int64_t q_a = 0, q = 0, k = 0, v = 0, kv_a = 0, attended = 0, gated = 0, logits = 0;
  int64_t sum() const { return 3 * hidden + q_a + q + k + v + kv_a + attended + gated + logits; }
};
ActivationWidths activation_widths(const model::Config& config, model::LayerRange range);
/// What the range's operations get at most.
StepBounds step_bounds(const model::Config& config, model::LayerRange range, const ForwardLimits& limits);

class Forward {
 public:
  /// Adopts the weights of the range, and takes all the memory that its steps will need. progress(done,
  /// total) in layers; may be empty.
  Forward(Backend& backend, const model::Checkpoint& checkpoint, model::LayerRange range,
          const ForwardLimits& limits, const std::function<void(int64_t, int64_t)>& progress);

  bool first() const { return embedding_.has_value(); }
  bool last() const { return head_.has_value(); }

  /// Starts a step from token ids (first stage) or from the hidden states of the stage before, [rows,
  /// hidden].
  void begin(std::span<const int32_t> ids);
  void begin(std::span<const float> hidden);
  /// Runs the layers. The sequences' rows cover the rows of the step.
  void layers(std::span<const SequenceRows> sequences, const KvPool& kv);
  /// The last stage's end: logits of the listed rows, [rows.size(), vocab].
  Rows logits(std::span<const int32_t> rows);
  /// Any other stage's end: hidden states for the next, [rows, hidden].
  Rows hidden();

 private:
  struct Latent {
    std::optional<Weight> q_a, q_a_norm;
    Weight kv_a, kv_a_norm;
    std::optional<Weight> kv_b, k_b, v_b;
  };
  struct Experts {
    Weight router;
    std::optional<Weight> router_bias;
    std::vector<Weight> gate, up, down;
  };
  struct Layer {
    Weight attention_norm, q, k, v, o, mlp_norm, gate, up, down;
    std::optional<Weight> q_bias, k_bias, v_bias, o_bias, q_norm, k_norm, gate_bias, up_bias, down_bias;
    std::optional<Latent> latent;
    std::optional<Experts> experts;
  };
  struct RowBuffer {
    Buffer memory;
    int64_t width = 0;
    Rows first(int64_t rows) const { return {memory.get(), rows, width}; }
    /// Narrower rows in the same memory.
    Rows first(int64_t rows, int64_t narrower) const { return {memory.get(), rows, narrower}; }
  };

  Layer adopt(const model::LayerWeights& weights);
  // Each reads h_; attention leaves its result in attended_, the MLP in delta_.
  void grouped_attention(const Layer& layer, std::span<const SequenceRows> sequences, const KvLayer& cache);
  void latent_attention(const Layer& layer, std::span<const SequenceRows> sequences, const KvLayer& cache);
  void mlp(const Layer& layer);

  Backend& backend_;
  model::Config config_;
  StepBounds bounds_;
  float eps_;
  std::vector<Layer> layers_;
  std::optional<Weight> embedding_, final_norm_, head_;
  // x: the residual stream; delta: what the latest block adds to it; h: normalised rows
  RowBuffer x_, delta_, h_, q_a_, q_, k_, v_, kv_a_, attended_, gated_, logits_;
  int64_t rows_ = 0;  // of the step that runs
};

}  // namespace convoy::gpu
