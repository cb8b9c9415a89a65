#pragma once
// CpuDevice: steps computed by a CPU backend, each before submit() returns. Owns the range's weights, cache
// and block tables, what its slots have seen, which the sampler's penalties ask for, and where a stage with
// one thread computes: its hint to the next stage is the number of a core (docs/decisions/0008).

#include <memory>
#include <optional>
#include <vector>

#include "gpu/block_tables.hpp"
#include "gpu/cpu/stage_place.hpp"
#include "gpu/device.hpp"
#include "gpu/forward.hpp"

namespace convoy::gpu {

class CpuDevice final : public Device {
 public:
  /// threads: of the backend.
  CpuDevice(std::unique_ptr<Backend> backend, const StageShape& shape, int threads);

  DeviceFacts facts() const override {
    return {.variant = backend_->variant(),
            .kv_type = backend_->kv_type(),
            .copies_weights = backend_->copies_weights(),
            .moves_blocks = true};
  }
  DeviceNeeds needs(const DeviceLimits& limits) const override;
  void enter_thread(std::span<const pthread_t> bringing_work) override;
  uint64_t memory_bytes() const override;
  void load(int64_t layer, std::span<const WeightRef> parts) override;
  void open(const DeviceLimits& limits, const Rotations& rotations) override;
  void submit(const DeviceStep& step) override;
  const DeviceDone* next_done(std::chrono::microseconds wait) override;
  void release(uint64_t number) override;
  void reset() override;
  void save_block(uint32_t block, std::span<std::byte> to) override;
  void load_block(uint32_t block, std::span<const std::byte> from) override;

 private:
  struct Slot {
    uint32_t prompt_tokens = 0;
    model::Sampling sampling = {};
    // On the last stage, if the sampling needs them: the tokens at the positions that are in the cache.
    std::vector<int32_t> tokens = {};
    TokenCounts counts = {};

    TokenCounts::Of part(size_t position) const {
      return position < prompt_tokens ? TokenCounts::Of::prompt : TokenCounts::Of::output;
    }
    /// Replaces what there is from the position on, which is one of theirs or the next.
    void write(size_t first_position, std::span<const int32_t> ids);
  };
  enum class Held : uint8_t { nothing, done, given_out };  // what done_ is

  void take_place(const StepHints& hints);
  void compute(const DeviceStep& step);
  void start(const SlotStart& start);
  void lay_out(const DeviceStep& step);
  void sample(const DeviceStep& step);

  std::unique_ptr<Backend> backend_;
  StageShape shape_;
  const int threads_;
  // Of a stage with one thread: one with more has all cores, or leaves them to the system.
  std::optional<StagePlace> place_;
  uint64_t weight_bytes_ = 0;
  Forward forward_;
  std::optional<BlockTables> tables_;
  std::vector<Slot> slots_;

  // The latest step.
  std::vector<SequenceRows> rows_;
  std::vector<int32_t> sampled_rows_;
  std::vector<SampleRow> sample_rows_;
  std::vector<SampledToken> sampled_;
  std::vector<float> logits_;
  DeviceDone done_;
  Held held_ = Held::nothing;
};

}  // namespace convoy::gpu
