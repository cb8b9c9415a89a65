#pragma once
// Engine: a layer range on its device. Loads the weights, checks what plans say (a peer's bytes), keeps slots
// and lengths, and gives results in the order of the steps. One thread calls it (the stage's device thread,
// or a tool).

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "gpu/device.hpp"
#include "gpu/kv_pool.hpp"
#include "gpu/second_tier.hpp"
#include "gpu/step.hpp"
#include "model/checkpoint/checkpoint.hpp"

namespace convoy::gpu {

struct EngineLimits {
  uint32_t kv_blocks = 0;      // of kv_block_tokens tokens, shared by all slots; 0: as many as fit
  uint32_t slots = 0;          // sequences at once
  int64_t context_tokens = 0;  // positions per sequence
  int64_t rows_per_step = 0;   // buffers are sized for it
  std::optional<model::DType>
      kv_type;  // of cached keys and values: one of kv_types; else the device's choice
  /// The same tokens whatever chunks a prompt was cut into: latent attention keeps to one of its two forms.
  bool deterministic = false;
  // If kv_blocks is 0: engines that share the device's memory; and if they hold their parts of it already,
  // what this one had before, which it gets again if there is room.
  uint32_t sharers = 1, kv_blocks_before = 0;
  SecondTierOptions second_tier = {};  // of KV blocks; none if nothing is given to it
  bool operator==(const EngineLimits&) const = default;
};

/// What a step leaves behind: hidden states for the next stage, or sampled tokens from the last.
struct StepOutput {
  std::span<const float> hidden;  // [rows, hidden]; empty on the last stage. Valid until the next run()
  StepResult result;              // on the last stage
};

class Engine {
 public:
  /// Called before the first layer is loaded, and behind each, with bytes of weights; may be empty.
  using Progress = std::function<void(uint64_t done, uint64_t total)>;
  /// Opens the device and loads the layers. Throws InputError if there is no memory for these, or limits
  /// leave kv_blocks open and there is none for them, or ask for a second tier and there is no memory or disk
  /// for it, or the device moves no blocks.
  Engine(const DeviceFactory& device, std::shared_ptr<const model::Checkpoint> checkpoint,
         model::LayerRange range, const EngineLimits& limits, const Progress& progress = {});
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  /// The calling thread will run all steps: it, the device's own, and those that bring it its work may be
  /// bound to cores.
  void bind_thread(std::span<const pthread_t> bringing_work = {});

  bool first() const;      // embeds token ids
  bool last() const;       // computes logits and samples
  int64_t hidden() const;  // values of a row of hidden states
  int64_t rows_per_step() const;
  uint32_t depth() const;  // steps that may be in flight
  uint32_t in_flight() const;
  uint32_t kv_blocks() const;
  uint32_t kv_places() const;  // KV blocks that the second tier keeps; 0: there is none
  /// The arithmetic of kv_blocks, if limits left them open.
  const std::optional<KvPool>& kv_pool() const;

  /// What hidden states are handed over in, if the next stage's device says the same; else float32.
  HiddenForm hidden_form() const;

  /// Begins a step. input: from the stage before, empty on the first stage; output: for the next one, empty
  /// on the last stage. Both stay valid until the step is done. Throws std::runtime_error with the offending
  /// values if the plan breaks a limit or refers to a slot, position, block or place that it may not (the
  /// peer's bytes are validated here, where they are used), or if depth() steps are in flight; and if a block
  /// does not come back from the second tier as it went there.
  void submit(const StepPlan& plan, HiddenIn input, HiddenOut output, const StepHints& hints = {});
  /// The oldest step in flight, once it is done: on the last stage what it sampled. Nothing after `wait`.
  std::optional<StepResult> next_done(std::chrono::microseconds wait);

  /// One step from beginning to end, with none in flight.
  StepOutput run(const StepPlan& plan, std::span<const float> input);

  /// What the last stage sampled in that step, for plans that say token_fed_back. Results for sequences that
  /// have ended or moved on are ignored.
  void feed_back(const StepResult& result);
  /// Puts the tokens that were fed back into a plan that comes next, unless the device has them itself.
  /// False: one is not there yet. Throws std::runtime_error if it never will be.
  bool resolve(StepPlan& plan) const;

  /// Forgets all sequences, and steps in flight: a new epoch.
  void reset();

  /// Logits of the sampled rows of the latest step that was done, [rows, vocab], for `convoy verify`; last
  /// stage only. They are copied before sampling when keep_logits was set.
  void keep_logits(bool keep);
  std::span<const float> logits() const;

  /// Which experts the rows of the latest step that was done went to, [layers with experts, rows, experts of
  /// a row], ascending in each row, for `convoy verify`. Recorded when record_routing was set.
  void record_routing(bool record);
  std::span<const int32_t> routing() const;
  /// The next step's rows go to these experts instead of those that their scores say, weighted by their
  /// scores. Valid until that step is done. submit() throws std::runtime_error if no such routing can be.
  void replay_routing(std::span<const int32_t> routing);

  /// DeviceDone::hint and took_us of the latest step that was done.
  int32_t hint() const;
  float took_us() const;

  // The device's edges (Device). A step uses one by HiddenForm::edge; once it is up, and by all steps of both
  // ends.
  EdgeKey offer_edge();
  void join_edge(const EdgeKey& key);
  EdgeStatus edge_status(EdgeEnd end);
  void end_edge(EdgeEnd end);

  std::string_view variant() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace convoy::gpu
