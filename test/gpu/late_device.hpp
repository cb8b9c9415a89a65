#pragma once
// LateDevice: a device that has several steps in flight and completes them when the test says so, as a GPU
// does. It computes nothing: a sampled row's token is the position behind it.

#include <deque>
#include <vector>

#include "gpu/device.hpp"

namespace convoy::gpu::test {

class LateDevice final : public Device {
 public:
  static constexpr uint32_t depth = 3;

  /// What was submitted, as it has to be kept: the spans are gone when submit() returns.
  struct Step {
    uint64_t number = 0;
    std::vector<int32_t> ids;
    std::vector<SlotRows> sequences;
    std::vector<BlockChange> block_changes;
    std::vector<uint32_t> started;
    bool released = false;
  };

  /// The test keeps it; the engine owns the device.
  struct Book {
    std::vector<Step> steps;
    std::vector<std::pair<int64_t, size_t>> loads;  // layer, parts
    DeviceLimits limits;
    size_t finished = 0, resets = 0;  // finished: so many of the steps may be given out
    bool opened = false;
  };

  LateDevice(Book& book, bool feeds_back) : book_(book), feeds_back_(feeds_back) {}

  DeviceFacts facts() const override { return {"late", depth, feeds_back_}; }
  DeviceNeeds needs(const DeviceLimits&) const override { return {}; }
  void load(int64_t layer, std::span<const WeightRef> parts) override {
    book_.loads.emplace_back(layer, parts.size());
  }
  void open(const DeviceLimits& limits, const Rotations&) override {
    book_.limits = limits, book_.opened = true;
  }
  void submit(const DeviceStep& step) override {
    Step kept{step.number,
              {step.ids.begin(), step.ids.end()},
              {step.sequences.begin(), step.sequences.end()},
              {step.block_changes.begin(), step.block_changes.end()}};
    for (const SlotStart& start : step.starts) kept.started.push_back(start.slot);
    book_.steps.push_back(std::move(kept));
  }
  const DeviceDone* next_done(std::chrono::microseconds) override {
    if (given_out_ >= book_.finished) return nullptr;
    const Step& step = book_.steps[given_out_++];
    std::vector<SampledToken>& sampled = sampled_.emplace_back();
    for (const SlotRows& rows : step.sequences)
      for (uint32_t i = rows.sampled_rows; i-- > 0;)
        sampled.push_back({.id = static_cast<int32_t>(rows.first_position + rows.rows - i)});
    return &done_.emplace_back(DeviceDone{step.number, sampled, {}});
  }
  void release(uint64_t number) override {
    for (Step& step : book_.steps)
      if (step.number == number) step.released = true;
  }
  void reset() override {
    ++book_.resets;
    book_.steps.clear();
    book_.finished = given_out_ = 0;
  }

 private:
  Book& book_;
  bool feeds_back_;
  size_t given_out_ = 0;
  std::deque<std::vector<SampledToken>> sampled_;
  std::deque<DeviceDone> done_;
};

}  // namespace convoy::gpu::test
