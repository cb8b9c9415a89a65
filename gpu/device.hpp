#pragma once
// Device: a layer range on what computes it. The one seam between host logic (Engine: what a plan may say,
// slots, lengths, the order of results) and CPU or GPU: it takes whole steps, keeps block tables, sampling
// parameters and what slots have seen to itself, and never makes its caller wait in submit() unless its depth
// is 1. One thread calls it. Arguments are plain data, so that a library built elsewhere can export the same
// functions as a C table. It trusts its caller: Engine has checked what it hands on.

#include <pthread.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "gpu/hidden_states.hpp"
#include "gpu/step.hpp"
#include "model/config.hpp"
#include "model/tensor.hpp"

namespace convoy::gpu {

/// The numbers of a layer range that decide what is computed. The forward pass asks these, never a family's
/// name. Which layers have experts say their weights.
struct StageShape {
  int64_t layers = 0;
  bool first = false, last = false;  // embeds token ids; computes logits and samples
  int64_t hidden = 0, intermediate = 0, vocab = 0;
  int64_t heads = 0, kv_heads = 0, head_dim = 0;  // head_dim: of the rotated part with latent attention
  float norm_eps = 0, attention_scale = 0;
  bool has_latent = false, has_experts = false;
  model::LatentAttention latent;  // if has_latent
  int64_t cache_widths[2] = {};   // values that each layer keeps of a token, in its streams; 0: has none
  model::Routing routing;         // if has_experts, as the two below
  int64_t expert_width = 0, shared_experts = 0;
  /// The same bits whatever chunks a prompt was cut into: latent attention keeps to one of its two forms.
  bool deterministic = false;
};

/// Which weight of a layer, or of the range's ends.
enum class Part : uint8_t {
  // of no layer
  embedding,
  final_norm,
  head,
  // of a layer, as far as it has them
  attention_norm,
  mlp_norm,
  q,
  k,
  v,
  o,
  q_bias,
  k_bias,
  v_bias,
  o_bias,
  q_norm,  // of heads
  k_norm,
  // of latent attention
  q_a,
  q_a_norm,
  kv_a,
  kv_a_norm,
  kv_b,
  k_b,
  v_b,
  // of a dense MLP, or the shared experts
  gate,
  up,
  down,
  gate_bias,
  up_bias,
  down_bias,
  // of experts
  router,
  router_bias,
  expert_gate,
  expert_up,
  expert_down,
};
inline constexpr size_t part_count = static_cast<size_t>(Part::expert_down) + 1;

/// A weight as it lies in the file. Matrices are [out, in]; a vector is one row.
struct WeightRef {
  Part part = Part::embedding;
  int32_t expert = -1;  // of expert_gate, expert_up, expert_down
  model::DType type = model::DType::f32;
  int64_t rows = 0, columns = 0;
  std::span<const std::byte> bytes;
  std::span<const std::byte> scales;  // float32, as Tensor::scales; empty: all 1
};

/// The rotations of all positions (RoPE, arXiv 2104.09864). Made once on the host, so that every device turns
/// by the same bits.
struct Rotations {
  std::span<const float> cosines, sines;  // [positions, half]
  int64_t half = 0;                       // pairs of a head
  model::RopePairs pairs = model::RopePairs::half_split;
  int64_t width() const { return 2 * half; }
};

struct DeviceLimits {
  uint32_t kv_blocks = 0;                    // of kv_block_tokens tokens, shared by all slots
  uint32_t slots = 0;                        // sequences at once
  int64_t context_tokens = 0;                // positions of a sequence
  int64_t rows = 0;                          // of a step
  model::DType kv_type = model::DType::f32;  // of cached keys and values
};

struct DeviceFacts {
  /// Names everything that shapes the bits of a result, such as "cpu-int8": told in handshakes, part of the
  /// answer cache's key. Valid as long as the device.
  std::string_view variant;
  uint32_t depth = 1;  // steps that may be in flight; 1: submit() computes before it returns
  /// A row may say token_fed_back before its token is known here: the device has it, or will.
  bool feeds_back = false;
  /// Of cached keys and values, if nobody asks for another: what it is quick with.
  model::DType kv_type = model::DType::f32;
  /// load() fetches the bytes that it reads: who calls it need not wait until they are in memory.
  bool reads_ahead = false;
  /// Nothing reads those bytes once load() has returned.
  bool copies_weights = false;
  /// Of hidden states, if the next stage's device says the same: what it rounds to anyway.
  HiddenForm hidden_form = HiddenForm::f32;
  /// Hidden states may go straight to another device of this kind, on another card of the same machine: it
  /// has edges.
  bool edges = false;
  /// Names the card on its machine; empty: none. Valid as long as the device.
  std::string_view card = {};
  /// KV blocks may leave the device's memory and come back: it has save_block() and load_block().
  bool moves_blocks = false;
};

/// How far an edge is, and why it failed.
struct EdgeStatus {
  EdgeState state = EdgeState::none;
  std::string reason = {};
};

/// A new sequence in a slot; what the slot held is forgotten.
struct SlotStart {
  uint32_t slot = 0;
  uint32_t prompt_tokens = 0;  // tokens at positions below are prompt: penalties treat them apart
  const model::Sampling* sampling = nullptr;  // copied
  /// Ids of the tokens that it begins behind, as SeqStart has them; copied. How many there are, rows say.
  std::span<const int32_t> history = {};
};

/// Consecutive rows of one sequence. Those that it already had at these positions and behind are rewritten.
struct SlotRows {
  uint32_t slot = 0;
  int64_t first_row = 0, rows = 0;
  int64_t first_position = 0;
  uint32_t sampled_rows = 0;  // the last so many rows get logits, and a sampled token each
};

/// What a device says with a step to the next stage's, if that is on the same machine: opaque to all others.
inline constexpr int32_t no_hint = -1;

/// How a step stands to others. A device may choose by it where it computes; results are the same.
struct StepHints {
  bool alone = false;  // no other is under way: this stage and those behind it, all here, take turns
  int32_t from_before = no_hint;  // DeviceDone::hint of the stage before
};

/// Which experts rows go to, for tools that hold one device against another: [layers with experts, rows,
/// experts of a row], ascending in each row.
struct RoutingTrace {
  /// In place of those that the scores say; their weights still are the scores'. nullptr: the scores say.
  const int32_t* replayed = nullptr;
  int32_t* recorded = nullptr;  // written until the step is done; nullptr: nobody asks

  /// What lies so many values further.
  RoutingTrace behind(int64_t values) const {
    return {replayed ? replayed + values : nullptr, recorded ? recorded + values : nullptr};
  }
};

struct DeviceStep {
  uint64_t number = 0;                         // ascending; what next_done() and release() call it by
  std::span<const SlotStart> starts;           // applied first
  std::span<const BlockChange> block_changes;  // then these
  std::span<const SlotRows> sequences;         // in the order of their rows
  std::span<const int32_t> ids;                // [rows]; token_fed_back only if the device feeds back
  HiddenIn in;                                 // from the stage before; not on the first one
  HiddenOut out;                               // for the next stage; not on the last one
  bool keep_logits = false;
  RoutingTrace routing = {};
  StepHints hints = {};
};

/// A step that is done. What it points to is the device's until release().
struct DeviceDone {
  uint64_t number = 0;
  std::span<const SampledToken> sampled;  // of all sampled rows, in their order
  std::span<const float> logits;          // [sampled rows, vocab] before sampling, if they were kept
  int32_t hint = no_hint;
  /// What it took the device alone, without waiting for hidden states; 0: not known.
  float took_us = 0;
};

/// What a range takes within limits, in bytes.
struct DeviceNeeds {
  uint64_t weight_bytes = 0;    // of what load() was given so far
  uint64_t kv_block_bytes = 0;  // of each KV block, in all layers of the range
  uint64_t buffer_bytes = 0;    // activations of a step
  uint64_t scratch_bytes = 0;   // what operations work in
};

class Device {
 public:
  virtual ~Device() = default;  // ends what is in flight

  virtual DeviceFacts facts() const = 0;
  /// kv_blocks does not matter. Before load() or later.
  virtual DeviceNeeds needs(const DeviceLimits& limits) const = 0;
  /// Memory that ranges may take here, less a reserve for all else: asked before load(). 0: not known.
  virtual uint64_t memory_bytes() const = 0;
  /// The calling thread will make all other calls. It may be bound to what the device computes on, and moved
  /// together with the threads that bring it its work.
  virtual void enter_thread(std::span<const pthread_t> bringing_work) { (void)bringing_work; }

  /// All parts of one layer, or with −1 those of none. The bytes outlive the device, which computes on them
  /// in place unless its facts say that it copies them. Throws InputError for a type that it does not compute
  /// with.
  virtual void load(int64_t layer, std::span<const WeightRef> parts) = 0;
  /// Takes all memory that steps will need: one that is found missing is found before the first step. The
  /// rotations outlive the device.
  virtual void open(const DeviceLimits& limits, const Rotations& rotations) = 0;

  /// Steps happen in the order of these calls; at most `depth` that were not released. Pointers are read and
  /// written until the step is done, everything else before this returns. What a step failed with is thrown
  /// here or by next_done().
  virtual void submit(const DeviceStep& step) = 0;
  /// The oldest step that is done and was not given out, or nullptr after `wait`.
  virtual const DeviceDone* next_done(std::chrono::microseconds wait) = 0;
  virtual void release(uint64_t number) = 0;
  /// Ends what is in flight, edges too, and forgets all sequences: a new epoch.
  virtual void reset() = 0;

  // Moves of KV blocks, of devices whose facts have them. Each happens behind all steps that were submitted
  // before and ahead of all later ones, and is done when the call returns.

  /// Copies what a block holds in all layers, of any tokens: DeviceNeeds::kv_block_bytes, in an order that
  /// only this device knows.
  virtual void save_block(uint32_t block, std::span<std::byte> to) { (void)block, (void)to, std::abort(); }
  /// The same back into a block, whichever: from a device of the same range and limits.
  virtual void load_block(uint32_t block, std::span<const std::byte> from) {
    (void)block, (void)from, std::abort();
  }
  /// Where blocks will be copied to and from, if the host's memory has to be prepared for that. It stays
  /// there until the device is gone.
  virtual void page_lock(std::span<std::byte> memory) { (void)memory; }

  // Edges, of devices whose facts have them. What fails with a neighbour is in edge_status(), not thrown,
  // until steps use the edge.

  /// Begins to look for the next stage's end, which has to be told the key; in place of an edge that was
  /// there.
  virtual EdgeKey offer_edge() { return EdgeKey{}; }
  /// The same for the end of the stage before, whose key it is.
  virtual void join_edge(const EdgeKey& key) { (void)key; }
  /// Has to be asked until it is up: that is when it goes on. Waits for nothing.
  virtual EdgeStatus edge_status(EdgeEnd end) { return (void)end, EdgeStatus{}; }
  /// Gives it up, with the steps that use it.
  virtual void end_edge(EdgeEnd end) { (void)end; }
};

/// Opens a device for a range. Throws InputError if it cannot run this shape: before a weight is read. Cheap:
/// who only asks for facts() or needs() opens one too, so memory of a GPU and the like is taken by load().
using DeviceFactory = std::function<std::unique_ptr<Device>(const StageShape& shape)>;

}  // namespace convoy::gpu
