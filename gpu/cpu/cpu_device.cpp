#include "gpu/cpu/cpu_device.hpp"

#include <algorithm>
#include <cassert>

#include "gpu/sampler.hpp"
#include "model/memory_limit.hpp"

namespace convoy::gpu {

namespace {

/// Of the memory that the system could give, one part of so many is left to it: for the rest of this process,
/// links, gateway, and other programs.
constexpr uint64_t memory_reserve_part = 8;

}  // namespace

CpuDevice::CpuDevice(std::unique_ptr<Backend> backend, const StageShape& shape, int threads)
    : backend_(std::move(backend)), shape_(shape), threads_(threads), forward_(*backend_, shape) {
  if (!shape.has_latent) backend_->check_heads(shape.head_dim);
}

DeviceNeeds CpuDevice::needs(const DeviceLimits& limits) const {
  const int64_t values = shape_.layers * kv_block_tokens * (shape_.cache_widths[0] + shape_.cache_widths[1]);
  return {
      .weight_bytes = weight_bytes_,
      .kv_block_bytes = static_cast<uint64_t>(values) * model::info(limits.kv_type).block_bytes,
      .buffer_bytes = static_cast<uint64_t>(limits.rows * activation_widths(shape_).sum()) * sizeof(float),
      .scratch_bytes = backend_->reserved_bytes(step_bounds(shape_, limits))};
}

/// Memory that the system uses to cache files counts as free: it makes room for copies of weights, too.
uint64_t CpuDevice::memory_bytes() const {
  const uint64_t available = model::memory_available().bytes;
  return available - available / memory_reserve_part;
}

void CpuDevice::load(int64_t layer, std::span<const WeightRef> parts) {
  for (const WeightRef& part : parts) weight_bytes_ += part.bytes.size() + part.scales.size();
  forward_.load(layer, parts);
}

void CpuDevice::open(const DeviceLimits& limits, const Rotations& rotations) {
  forward_.open(limits, rotations);
  tables_.emplace(limits.kv_blocks, limits.slots, limits.context_tokens);
  slots_.assign(limits.slots, {});
}

void CpuDevice::enter_thread(std::span<const pthread_t> bringing_work) {
  backend_->bind_thread();
  if (threads_ > 1) return;  // it has all cores, or the system places it (docs/decisions/0007)
  std::vector<pthread_t> moving{pthread_self()};
  moving.insert(moving.end(), bringing_work.begin(), bringing_work.end());
  place_.emplace(moving);
}

/// A step that is alone stays on the core that it is on; stages behind it follow there.
void CpuDevice::take_place(const StepHints& hints) {
  if (hints.from_before != no_hint)
    place_->stay_on(hints.from_before);
  else
    place_->stay_on(hints.alone ? StagePlace::here() : std::nullopt);
}

void CpuDevice::submit(const DeviceStep& step) {
  assert(held_ == Held::nothing);
  done_ = {.number = step.number};
  if (!place_) {
    compute(step);
  } else {
    take_place(step.hints);
    place_->begin();
    compute(step);
    place_->end();
    done_.hint = place_->core().value_or(no_hint);
  }
  held_ = Held::done;
}

void CpuDevice::compute(const DeviceStep& step) {
  for (const SlotStart& start : step.starts) this->start(start);
  for (const BlockChange& change : step.block_changes) tables_->map(change);
  lay_out(step);
  if (rows_.empty()) return;
  if (shape_.first)
    forward_.begin(step.ids);
  else
    forward_.begin(step.in.values());
  forward_.layers(rows_, step.routing);
  if (shape_.last)
    sample(step);
  else
    backend_->read(forward_.hidden(), step.out.values());
}

const DeviceDone* CpuDevice::next_done(std::chrono::microseconds) {
  if (held_ != Held::done) return nullptr;
  held_ = Held::given_out;
  return &done_;
}

void CpuDevice::release(uint64_t number) {
  assert(held_ == Held::given_out && number == done_.number);
  held_ = Held::nothing;
}

void CpuDevice::reset() {
  held_ = Held::nothing;
  if (place_) place_->stay_on(std::nullopt);
  for (uint32_t slot = 0; slot < slots_.size(); slot++) start({.slot = slot});
}

void CpuDevice::save_block(uint32_t block, std::span<std::byte> to) {
  forward_.each_stream_of(block, [&to](std::span<std::byte> stream) {
    std::ranges::copy(stream, to.begin());
    to = to.subspan(stream.size());
  });
  assert(to.empty());
}

void CpuDevice::load_block(uint32_t block, std::span<const std::byte> from) {
  forward_.each_stream_of(block, [&from](std::span<std::byte> stream) {
    std::ranges::copy(from.first(stream.size()), stream.begin());
    from = from.subspan(stream.size());
  });
  assert(from.empty());
}

void CpuDevice::start(const SlotStart& start) {
  tables_->clear(start.slot);
  Slot& slot = slots_[start.slot];
  slot = {};
  slot.prompt_tokens = start.prompt_tokens;
  if (start.sampling) slot.sampling = *start.sampling;
  if (shape_.last) slot.write(0, start.history);
}

void CpuDevice::Slot::write(size_t first_position, std::span<const int32_t> ids) {
  if (!needs_history(sampling)) return;
  assert(first_position <= tokens.size());
  for (size_t p = first_position; p < tokens.size(); p++) counts.remove(tokens[p], part(p));
  tokens.resize(first_position);
  tokens.insert(tokens.end(), ids.begin(), ids.end());
  for (size_t p = first_position; p < tokens.size(); p++) counts.add(tokens[p], part(p));
}

/// Where the step's rows lie in the cache, and which of them are sampled.
void CpuDevice::lay_out(const DeviceStep& step) {
  rows_.clear(), sampled_rows_.clear();
  for (const SlotRows& s : step.sequences) {
    rows_.push_back(
        {s.first_row, s.rows, s.first_position, tables_->table(s.slot, s.first_position + s.rows)});
    for (int64_t r = s.first_row + s.rows - s.sampled_rows; r < s.first_row + s.rows; r++)
      sampled_rows_.push_back(static_cast<int32_t>(r));
    if (!shape_.last) continue;
    slots_[s.slot].write(static_cast<size_t>(s.first_position),
                         step.ids.subspan(static_cast<size_t>(s.first_row), static_cast<size_t>(s.rows)));
  }
}

void CpuDevice::sample(const DeviceStep& step) {
  if (sampled_rows_.empty()) return;
  const Rows out = forward_.logits(sampled_rows_);
  if (step.keep_logits) {
    logits_.resize(sampled_rows_.size() * static_cast<size_t>(shape_.vocab));
    backend_->read(out, logits_);
    done_.logits = logits_;
  }
  sample_rows_.clear();
  for (const SlotRows& s : step.sequences) {
    const Slot& slot = slots_[s.slot];
    const std::span<const int32_t> tokens = slot.tokens;
    const auto end = static_cast<size_t>(s.first_position + s.rows);
    const size_t prompt_end = std::min<size_t>(slot.prompt_tokens, end);
    for (size_t seen = end - s.sampled_rows + 1; seen <= end; seen++) {
      const size_t prompt = std::min(prompt_end, seen), output = std::max(prompt_end, seen);
      SampleRow& row =
          sample_rows_.emplace_back(SampleRow{&slot.sampling, seen, static_cast<uint32_t>(seen - prompt)});
      if (!needs_history(slot.sampling)) continue;
      row.counts = &slot.counts;
      row.later_prompt = tokens.subspan(prompt, prompt_end - prompt),
      row.later_output = tokens.subspan(output);
    }
  }
  sampled_.assign(sample_rows_.size(), {});
  backend_->sample(out, sample_rows_, sampled_);
  done_.sampled = sampled_;
}

DeviceFactory cpu_device(Kernels kernels, int threads) {
  return [=](const StageShape& shape) {
    return std::make_unique<CpuDevice>(make_cpu_backend(kernels, threads), shape, threads);
  };
}

}  // namespace convoy::gpu
