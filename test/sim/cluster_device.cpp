#include "test/sim/cluster_device.hpp"

#include <algorithm>
#include <cstring>

namespace sim {

using namespace convoy;

gpu::DeviceFacts HashDevice::facts() const {
  return {.variant = "hash", .depth = site_.depth, .feeds_back = site_.depth > 1, .reads_ahead = true};
}

void HashDevice::load(int64_t, std::span<const gpu::WeightRef>) {
  site_.sleep_until(site_.now() + site_.load_time);
}

void HashDevice::open(const gpu::DeviceLimits& limits, const gpu::Rotations&) {
  slots_.resize(limits.slots);
  blocks_.assign(static_cast<size_t>(shape_.layers), std::vector<Block>(limits.kv_blocks));
}

void HashDevice::submit(const gpu::DeviceStep& step) {
  for (const gpu::SlotStart& s : step.starts) start(s);
  for (const gpu::BlockChange& c : step.block_changes) {
    auto& table = slots_.at(c.slot).table;
    if (c.index >= table.size()) table.resize(c.index + 1);
    table[c.index] = c.block;
  }
  Flying& flying = flying_.emplace_back();
  const bool skips = site_.skips();
  for (const gpu::SlotRows& rows : step.sequences) run(rows, step, skips, flying.sampled);
  flying.done = {.number = step.number, .sampled = flying.sampled};
  const auto begins =
      flying_.size() > 1 ? std::max(site_.now(), flying_[flying_.size() - 2].done_at) : site_.now();
  flying.done_at = site_.hangs() || begins == Timeline::never ? Timeline::never
                                                              : begins + site_.step_time(step.ids.size());
  if (site_.depth == 1) site_.sleep_until(flying.done_at);
}

void HashDevice::start(const gpu::SlotStart& start) {
  Slot& slot = slots_.at(start.slot) = {.sampling = *start.sampling, .prompt_tokens = start.prompt_tokens};
  uint64_t sum = 0;
  for (size_t i = 0; i < start.history.size(); ++i)
    slot.penalties.push_back(sum += penalty_of(start.history[i], i < start.prompt_tokens));
}

/// What a row brings into this stage's first layer.
uint64_t HashDevice::input(const gpu::DeviceStep& step, int64_t row, int32_t token) const {
  if (shape_.first) return input_of(token);
  uint64_t hidden = 0;
  std::memcpy(&hidden, step.in.values().data() + row * shape_.hidden, sizeof hidden);
  return hidden;
}

Cell& HashDevice::cell(size_t layer, const Slot& slot, int64_t position) {
  const auto place = gpu::KvPlace::of(slot.table.data(), position);
  return blocks_.at(layer).at(static_cast<size_t>(place.block)).at(static_cast<size_t>(place.token));
}

void HashDevice::run(const gpu::SlotRows& rows, const gpu::DeviceStep& step, bool skip,
                     std::vector<gpu::SampledToken>& sampled) {
  Slot& slot = slots_.at(rows.slot);
  const auto last = [&](int64_t position) -> const Cell& { return cell(blocks_.size() - 1, slot, position); };
  const bool penalized = slot.sampling.penalized();
  if (penalized) slot.penalties.resize(static_cast<size_t>(rows.first_position));
  for (int64_t i = 0; i < rows.rows; ++i) {
    const int64_t position = rows.first_position + i, row = rows.first_row + i;
    const int32_t given = step.ids[static_cast<size_t>(row)];
    const int32_t token = given == gpu::token_fed_back ? slot.sampled : given;
    uint64_t hidden = input(step, row, token);
    for (size_t layer = 0; layer < blocks_.size(); ++layer) {
      const auto cells = [&](int64_t at) -> const Cell& { return cell(layer, slot, at); };
      const Cell computed = compute(cells, position, token, hidden);
      if (!skip) cell(layer, slot, position) = computed;
      hidden = computed.read;
    }
    if (!shape_.last) {
      std::memcpy(step.out.values().data() + row * shape_.hidden, &hidden, sizeof hidden);
      continue;
    }
    if (penalized) {
      const uint64_t before = slot.penalties.empty() ? 0 : slot.penalties.back();
      slot.penalties.push_back(before + penalty_of(token, position < slot.prompt_tokens));
    }
    if (i < rows.rows - rows.sampled_rows) continue;
    sampled.push_back(
        sample(last, position, slot.prompt_tokens, slot.sampling, penalized ? slot.penalties.back() : 0));
    slot.sampled = sampled.back().id;
  }
}

const gpu::DeviceDone* HashDevice::next_done(std::chrono::microseconds wait) {
  const auto oldest = std::ranges::find(flying_, false, &Flying::given_out);
  if (oldest == flying_.end()) return nullptr;
  if (oldest->done_at > site_.now() && wait.count() > 0)
    site_.sleep_until(std::min(oldest->done_at, site_.now() + wait));
  if (oldest->done_at > site_.now()) return nullptr;
  oldest->given_out = true;
  return &oldest->done;
}

void HashDevice::release(uint64_t number) {
  std::erase_if(flying_, [number](const Flying& f) { return f.done.number == number; });
}

/// It cannot be told to stop: who ends what is in flight waits for it, for ever if it hangs.
void HashDevice::reset() {
  if (!flying_.empty()) site_.sleep_until(flying_.back().done_at);
  flying_.clear();
  for (Slot& slot : slots_) slot = {};
}

}  // namespace sim
