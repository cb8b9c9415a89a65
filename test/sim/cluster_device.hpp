#pragma once
// HashDevice: what a simulated stage computes on: the fake model's layers of one stage, in virtual time. A
// row's hidden states are a hash of all that each layer keeps of the positions so far and of what came in, so
// a position that is skipped, written twice or stale in any one layer changes every token behind it; and it
// does not matter which stage a layer is in.

#include <array>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <vector>

#include "gpu/device.hpp"
#include "test/sim/fake_model.hpp"
#include "test/sim/timeline.hpp"

namespace sim {

/// How a device spends time, and what goes wrong with it: its process's part.
struct DeviceSite {
  std::function<Timeline::Time()> now;
  std::function<void(Timeline::Time)> sleep_until;  // blocks the calling thread
  std::function<Timeline::Duration(size_t rows)> step_time;
  Timeline::Duration load_time{};  // of a layer
  uint32_t depth = 1;              // as gpu::DeviceFacts has it
  std::function<bool()> hangs;     // in the step that begins: it never ends
  std::function<bool()> skips;     // a position of the step that begins: a mistake on purpose
};

class HashDevice final : public convoy::gpu::Device {
 public:
  HashDevice(const convoy::gpu::StageShape& shape, const DeviceSite& site) : shape_(shape), site_(site) {}

  convoy::gpu::DeviceFacts facts() const override;
  convoy::gpu::DeviceNeeds needs(const convoy::gpu::DeviceLimits&) const override { return {}; }
  uint64_t memory_bytes() const override { return 0; }
  void load(int64_t layer, std::span<const convoy::gpu::WeightRef> parts) override;
  void open(const convoy::gpu::DeviceLimits& limits, const convoy::gpu::Rotations&) override;
  void submit(const convoy::gpu::DeviceStep& step) override;
  const convoy::gpu::DeviceDone* next_done(std::chrono::microseconds wait) override;
  void release(uint64_t number) override;
  void reset() override;

 private:
  using Block = std::array<Cell, static_cast<size_t>(convoy::gpu::kv_block_tokens)>;
  struct Slot {
    convoy::model::Sampling sampling;
    uint32_t prompt_tokens = 0;
    std::vector<uint32_t> table;
    std::vector<uint64_t> penalties;  // sums up to each position, if they count
    int32_t sampled = 0;              // last
  };
  struct Flying {
    Timeline::Time done_at;
    std::vector<convoy::gpu::SampledToken> sampled;
    convoy::gpu::DeviceDone done;
    bool given_out = false;
  };

  void start(const convoy::gpu::SlotStart& start);
  void run(const convoy::gpu::SlotRows& rows, const convoy::gpu::DeviceStep& step, bool skip,
           std::vector<convoy::gpu::SampledToken>& sampled);
  uint64_t input(const convoy::gpu::DeviceStep& step, int64_t row, int32_t token) const;
  Cell& cell(size_t layer, const Slot& slot, int64_t position);

  const convoy::gpu::StageShape shape_;
  const DeviceSite site_;
  std::vector<Slot> slots_;
  std::vector<std::vector<Block>> blocks_;  // of each layer
  std::deque<Flying> flying_;
};

}  // namespace sim
