#pragma once
// LateDevice: a device that has several steps in flight and completes them when the test says so, as a GPU
// does. It computes nothing: a sampled row's token is the position behind it, and hidden states are the
// step's number and what came in, read and written when the step is done.

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <stdexcept>
#include <string>
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
    const float* in = nullptr;
    float* out = nullptr;
    bool released = false;
  };

  /// The test keeps it; the engine owns the device. A test whose device is called by another thread holds the
  /// mutex while it looks.
  struct Book {
    std::mutex mutex;
    std::condition_variable changed;
    std::vector<Step> steps;
    std::vector<std::pair<int64_t, size_t>> loads;  // layer, parts
    DeviceLimits limits;
    size_t finished = 0, resets = 0;  // finished: so many of the steps may be given out
    bool opened = false;
    uint64_t memory_bytes = 0;
    std::string fault;  // what the next one that is asked for fails with
  };

  /// hidden: values of a row of hidden states.
  LateDevice(Book& book, bool feeds_back, int64_t hidden = 0)
      : book_(book), feeds_back_(feeds_back), hidden_(hidden) {}

  DeviceFacts facts() const override { return {"late", depth, feeds_back_}; }
  DeviceNeeds needs(const DeviceLimits&) const override {
    return {.weight_bytes = 3'000'000, .kv_block_bytes = 1000, .buffer_bytes = 500, .scratch_bytes = 250};
  }
  uint64_t memory_bytes() const override { return book_.memory_bytes; }
  void load(int64_t layer, std::span<const WeightRef> parts) override {
    const std::lock_guard lock(book_.mutex);
    book_.loads.emplace_back(layer, parts.size());
  }
  void open(const DeviceLimits& limits, const Rotations&) override {
    const std::lock_guard lock(book_.mutex);
    book_.limits = limits, book_.opened = true;
  }
  void submit(const DeviceStep& step) override {
    Step kept{step.number,
              {step.ids.begin(), step.ids.end()},
              {step.sequences.begin(), step.sequences.end()},
              {step.block_changes.begin(), step.block_changes.end()}};
    kept.in = step.in.values().data(), kept.out = step.out.values().data();
    for (const SlotStart& start : step.starts) kept.started.push_back(start.slot);
    const std::lock_guard lock(book_.mutex);
    book_.steps.push_back(std::move(kept));
  }
  const DeviceDone* next_done(std::chrono::microseconds wait) override {
    std::unique_lock lock(book_.mutex);
    const auto any = [this] { return given_out_ < book_.finished || !book_.fault.empty(); };
    if (!book_.changed.wait_for(lock, wait, any)) return nullptr;
    if (!book_.fault.empty()) throw std::runtime_error(book_.fault);
    const Step& step = book_.steps[given_out_++];
    for (int64_t i = 0; step.out && i < static_cast<int64_t>(step.ids.size()) * hidden_; ++i)
      step.out[i] = static_cast<float>(step.number) + (step.in ? step.in[i] : 0);
    std::vector<SampledToken>& sampled = sampled_.emplace_back();
    for (const SlotRows& rows : step.sequences)
      for (uint32_t i = rows.sampled_rows; i-- > 0;)
        sampled.push_back({.id = static_cast<int32_t>(rows.first_position + rows.rows - i)});
    return &done_.emplace_back(DeviceDone{step.number, sampled, {}});
  }
  void release(uint64_t number) override {
    const std::lock_guard lock(book_.mutex);
    for (Step& step : book_.steps)
      if (step.number == number) step.released = true;
  }
  void reset() override {
    const std::lock_guard lock(book_.mutex);
    ++book_.resets;
    book_.steps.clear();
    book_.finished = given_out_ = 0;
  }

 private:
  Book& book_;
  bool feeds_back_;
  int64_t hidden_;
  size_t given_out_ = 0;
  std::deque<std::vector<SampledToken>> sampled_;
  std::deque<DeviceDone> done_;
};

}  // namespace convoy::gpu::test
