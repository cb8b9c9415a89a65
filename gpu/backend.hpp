#pragma once
// Backend: the coarse operations that the CPU's device makes a forward pass of; the reference of each fits on
// a page. They happen in the order of the calls, and those that hand something to the host wait for it. One
// thread calls a backend. A row's result depends on that row and its cache alone, in one order of additions
// whatever its neighbours, so that replays are bit-identical; of latent attention's two orders LatentShape
// says when.

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "gpu/device.hpp"
#include "gpu/step.hpp"
#include "gpu/token_counts.hpp"
#include "model/config.hpp"
#include "model/tensor.hpp"

namespace convoy::gpu {

/// Device memory. Freed with its last owner.
using Buffer = std::shared_ptr<void>;

/// A weight on the device, in any type the backend computes with.
struct Weight {
  Buffer memory;
  model::DType type = model::DType::f32;
  int64_t rows = 0, columns = 0;  // [out, in]; a vector is one row
  Buffer scales{};                // f8_e4m3, i8: as Tensor::scales; null: none
  bool packed = false;            // in tiles (gpu/cpu/packed.hpp) instead of as stored
  const void* data() const { return memory.get(); }
};

/// A view of activations: [rows, width], dense, in the backend's activation type (float32 on the CPU).
struct Rows {
  void* data = nullptr;
  int64_t rows = 0, width = 0;
};

/// out = h · weightᵀ (+ bias)
struct Projection {
  const Weight* weight;
  const Weight* bias;  // nullptr: none
  Rows out;            // [rows, weight->rows]
};

/// A gated MLP's two products of the same rows, and their biases.
struct GatedProjection {
  const Weight* gate;
  const Weight* up;
  const Weight* gate_bias;  // nullptr: none
  const Weight* up_bias;
  Rows out;  // [rows, gate->rows]
};

/// The rows of one sequence in a step, and where its KV lies.
struct SequenceRows {
  int64_t first_row = 0, rows = 0;
  int64_t first_position = 0;
  std::span<const uint32_t> blocks;  // block table: KvPlace::of says where a position lies
};

/// What a layer keeps of one stream (model::CacheStream): blocks · kv_block_tokens · width values. How they
/// lie in a block is the backend's own: only the operation that writes and the attention that reads see it.
/// Blocks begin with arbitrary bytes.
struct KvStream {
  Buffer memory;
  int64_t width = 0;
};

/// One layer's cache: keys and values of kv_heads · head_dim each, or the latent with its rotated key.
struct KvLayer {
  std::vector<KvStream> streams;
  int64_t blocks = 0;
  model::DType type = model::DType::f32;  // one of kv_types
};

struct AttentionShape {
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  float scale = 0;  // of q·k before the softmax
};

/// Weights that a head's query and key are normalised by before they turn, [head_dim], the same for all
/// heads. Both or none.
struct HeadNorms {
  const Weight *q = nullptr, *k = nullptr;
  float eps = 0;
};

/// Multi-head latent attention's shape (arXiv 2405.04434). A row of q is heads · (nope + rope), of kv_a and
/// of the cache latent + rope, of the output heads · value.
struct LatentShape {
  int64_t heads = 0, latent = 0, nope = 0, rope = 0, value = 0;
  float scale = 0;
  /// A sequence that brings more rows than this to a step has its cached keys and values projected up once
  /// for all of them; fewer rows are compared with the latents directly ("absorbed"). The two round
  /// differently.
  int64_t absorbed_rows_max = 0;
};

/// The projections of latents to keys and values, as LatentWeights has them: joint, or key and value apart.
struct LatentProjections {
  const Weight *joint = nullptr, *key = nullptr, *value = nullptr;
};

/// A layer's experts. Only those that a row chose are touched.
struct ExpertSet {
  const Weight* router = nullptr;
  const Weight* router_bias = nullptr;  // nullptr: none
  std::span<const Weight> gate, up, down;
};

/// What the steps of a layer range bring at most.
struct StepBounds {
  int64_t rows = 0;            // of a step
  int64_t context_tokens = 0;  // of a sequence
  int64_t hidden = 0;
  int64_t columns = 0;         // of the widest weight
  AttentionShape attention{};  // heads = 0: no such layers
  LatentShape latent{};        // heads = 0: no such layers
  int64_t experts = 0, experts_chosen = 0, expert_width = 0;
  int64_t vocab = 0;  // 0: the range gives no logits
};

/// Everything the sampler needs for one row of logits.
struct SampleRow {
  const model::Sampling* sampling = nullptr;
  uint64_t position = 0;   // of the sampled token in its sequence: counter of the random number
  uint32_t generated = 0;  // tokens sampled before it
  /// Of the sequence, for penalties: nullptr if there are none. It may hold tokens of this step that come
  /// after the row; those are listed.
  const TokenCounts* counts = nullptr;
  std::span<const int32_t> later_prompt{}, later_output{};
};

class Backend {
 public:
  virtual ~Backend() = default;

  /// Names everything that shapes the bits of a result, such as "cpu-int8 integer-masses": told in
  /// handshakes, part of the answer cache's key.
  virtual std::string_view variant() const = 0;

  /// The calling thread will make all other calls: it may be bound to what the backend computes on.
  virtual void bind_thread() {}

  /// Whether it keeps copies of what it adopted.
  virtual bool copies_weights() const { return false; }
  /// Of cached keys and values: what it is quickest with.
  virtual model::DType kv_type() const { return model::DType::f32; }

  /// Throws InputError if it cannot attend over heads of that many values. Asked before a weight is read.
  virtual void check_heads(int64_t) const {}
  virtual Buffer allocate(size_t bytes) = 0;
  virtual Weight adopt(const model::Tensor& tensor) = 0;
  /// What rope_write and latent_write rotate by. They outlive the backend.
  virtual void set_rope(const Rotations& rotations) = 0;
  /// Takes the memory that operations within these bounds work in, so that a step needs no more: one that is
  /// found missing is found before the first. Operations beyond take it when they come.
  virtual void reserve(const StepBounds& bounds) = 0;
  /// How many bytes that will be.
  virtual uint64_t reserved_bytes(const StepBounds& bounds) const = 0;

  /// x[r] = table[ids[r]]
  virtual void embed(const Weight& table, std::span<const int32_t> ids, Rows x) = 0;
  /// x += delta (if delta.data); h = x / sqrt(mean(x²) + eps) · w   (RMSNorm, arXiv 1910.07467)
  /// Without h.data only the sum: what a stage does before it sends x on.
  virtual void add_norm(Rows x, Rows delta, const Weight& w, float eps, Rows h) = 0;
  /// Several products of the same rows: q, k, v in one call.
  virtual void linear(Rows h, std::span<const Projection> projections) = 0;
  /// out = silu(h · gateᵀ + gate_bias) ⊙ (h · upᵀ + up_bias)   (SwiGLU, arXiv 2002.05202)
  virtual void gated_linear(Rows h, const GatedProjection& projection) = 0;
  /// Normalises each head of q and k (if there are norms) and rotates it at its row's position, in place, and
  /// writes k and v into the cache.
  virtual void rope_write(Rows q, Rows k, Rows v, const HeadNorms& norms, const AttentionShape& shape,
                          std::span<const SequenceRows> sequences, const KvLayer& kv) = 0;
  /// Causal grouped-query attention over the paged cache; the step's own rows are already in it.
  virtual void attention(Rows q, const AttentionShape& shape, std::span<const SequenceRows> sequences,
                         const KvLayer& kv, Rows out) = 0;
  /// kv_a's latent is normalised by `norm`, its key rotated, and both written into the cache; the last `rope`
  /// values of each head of q are rotated in place.
  virtual void latent_write(Rows q, Rows kv_a, const Weight& norm, float eps, const LatentShape& shape,
                            std::span<const SequenceRows> sequences, const KvLayer& kv) = 0;
  /// Causal attention over the cached latents; the step's own rows are already in it.
  virtual void latent_attention(Rows q, const LatentProjections& projections, const LatentShape& shape,
                                std::span<const SequenceRows> sequences, const KvLayer& kv, Rows out) = 0;
  /// out = shared (if shared.data) + Σ over the row's chosen experts of weight · down(silu(gate·h) ⊙ up·h),
  /// added in the order of the experts' numbers. Chosen by route() over float32 scores; `trace`: of this
  /// layer, [rows, chosen].
  virtual void experts(Rows h, const ExpertSet& experts, const model::Routing& routing,
                       const RoutingTrace& trace, Rows shared, Rows out) = 0;
  /// logits = norm(x[row] (+ delta[row])) · headᵀ for the listed rows only. logits: [rows.size(), vocab]
  virtual void head(Rows x, Rows delta, const Weight& norm, float eps, const Weight& head,
                    std::span<const int32_t> rows, Rows logits) = 0;
  /// Picks a token for each row of logits (which it may overwrite). Waits for the result.
  virtual void sample(Rows logits, std::span<const SampleRow> rows, std::span<SampledToken> out) = 0;
  /// Activations to and from the host, float32. Waits.
  virtual void read(Rows from, std::span<float> to) = 0;
  virtual void write(std::span<const float> from, Rows to) = 0;
  /// Joins the stream; throws what an operation failed with.
  virtual void wait() = 0;
};

enum class Kernels : uint8_t { reference, fast };

/// The device that computes each step by such a backend before submit() returns.
DeviceFactory cpu_device(Kernels kernels, int threads);

/// The CPU backend. `threads` ≥ 1 includes the caller. Throws InputError if the processor lacks AVX2 for
/// `fast`.
std::unique_ptr<Backend> make_cpu_backend(Kernels kernels, int threads);

}  // namespace convoy::gpu
