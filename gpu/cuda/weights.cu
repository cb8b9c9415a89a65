#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>

#include "gpu/cuda/arrange.hpp"
#include "gpu/cuda/check.hpp"
#include "gpu/cuda/weights.hpp"

namespace convoy::cuda {
namespace {

bool is_vector(Part part) {
  switch (part) {
    case Part::final_norm:
    case Part::attention_norm:
    case Part::mlp_norm:
    case Part::q_bias:
    case Part::k_bias:
    case Part::v_bias:
    case Part::o_bias:
    case Part::q_norm:
    case Part::k_norm:
    case Part::q_a_norm:
    case Part::kv_a_norm:
    case Part::gate_bias:
    case Part::up_bias:
    case Part::down_bias:
    case Part::router_bias:
      return true;
    default:
      return false;
  }
}

float widened(DType type, const std::byte* from) {
  if (type == DType::f32) {
    float value;
    std::memcpy(&value, from, sizeof value);
    return value;
  }
  unsigned short bits;
  std::memcpy(&bits, from, sizeof bits);
  return type == DType::f16 ? __half2float(__ushort_as_half(bits))
                            : __bfloat162float(__ushort_as_bfloat16(bits));
}

/// Parts of the same input, which lie behind each other in memory where that leaves no gap: as one matrix.
constexpr Part qkv[]{Part::q, Part::k, Part::v}, qkv_bias[]{Part::q_bias, Part::k_bias, Part::v_bias};
constexpr Part q_a_kv_a[]{Part::q_a, Part::kv_a}, q_kv_a[]{Part::q, Part::kv_a};
constexpr Part gate_up[]{Part::gate, Part::up}, gate_up_bias[]{Part::gate_bias, Part::up_bias};
constexpr std::span<const Part> joined_parts[]{qkv, qkv_bias, q_a_kv_a, q_kv_a, gate_up, gate_up_bias};

/// What a part takes with another behind it, and what its scales do; no bytes: it cannot have one.
struct Room {
  size_t bytes = 0, scales = 0;
};
Room room_behind_others(std::span<const WeightRef* const> refs) {
  if (refs.size() != 1) return {};
  const WeightRef& ref = *refs.front();
  if (is_vector(ref.part)) return {static_cast<size_t>(ref.columns) * sizeof(float)};
  if (!is_streamed(ref.type) || ref.rows % chunk_values != 0) return {};
  return {static_cast<size_t>(row_pitch(ref.type, ref.columns) * ref.rows), ref.scales.size()};
}

}  // namespace

LayerParts WeightStore::load(std::span<const WeightRef> parts) {
  LayerParts layer;
  std::array<std::vector<const WeightRef*>, gpu::part_count> same;
  for (const WeightRef& ref : parts) same[static_cast<size_t>(ref.part)].push_back(&ref);
  for (auto& refs : same) std::ranges::sort(refs, {}, [](const WeightRef* ref) { return ref->expert; });
  std::array<Place, gpu::part_count> places{};
  for (const std::span<const Part> joined : joined_parts) {
    const auto room = [&](Part part) { return room_behind_others(same[static_cast<size_t>(part)]); };
    const auto place = [&](Part part) -> Place& { return places[static_cast<size_t>(part)]; };
    if (!std::ranges::all_of(joined, [&](Part part) { return room(part).bytes > 0 && !place(part).data; }))
      continue;
    Room all;
    for (const Part part : joined) all.bytes += room(part).bytes, all.scales += room(part).scales;
    Place to{take(all.bytes), all.scales > 0 ? take(all.scales) : nullptr};
    for (const Part part : joined) {
      place(part) = to;
      to.data += room(part).bytes;
      if (to.scales) to.scales += room(part).scales;
    }
  }
  Batch batch;
  for (size_t part = 0; part < same.size(); part++) {
    if (same[part].empty()) continue;
    if (is_vector(static_cast<Part>(part)))
      layer.vectors[part] = place_vector(*same[part].front(), places[part].data, batch);
    else
      layer.matrices[part] = place(same[part], places[part], batch);
  }
  if (!uploader_) uploader_ = std::make_unique<Uploader>();
  uploader_->send(batch.copies);
  for (const auto& [weight, experts] : batch.arranged) arrange(weight, experts, not_numbers(), nullptr);
  return layer;
}

void WeightStore::end_loading() {
  uploader_.reset();
  if (not_numbers_.bytes() == 0) return;
  uint32_t found = 0;
  check(cudaMemcpy(&found, not_numbers_.as<void>(), sizeof found, cudaMemcpyDeviceToHost),
        "arranging weights");
  not_numbers_ = {};
  if (found > 0)
    throw refusal(std::to_string(found) + " weights are NaN", "checkpoint", "convert the model again");
}

/// Where arrange() counts.
uint32_t* WeightStore::not_numbers() {
  if (not_numbers_.bytes() == 0) {
    not_numbers_ = DeviceMemory(sizeof(uint32_t), "a count of weights");
    check(cudaMemset(not_numbers_.as<void>(), 0, sizeof(uint32_t)), "cudaMemset");
  }
  return not_numbers_.as<uint32_t>();
}

Matrix WeightStore::place(std::span<const WeightRef* const> same, Place to, Batch& batch) {
  const WeightRef& first = *same.front();
  if (first.type == DType::i64)
    throw refusal("a weight of whole numbers", "checkpoint", "convert it to a type that is computed with");
  for (const WeightRef* ref : same)
    if (ref->type != first.type || ref->rows != first.rows || ref->columns != first.columns ||
        ref->scales.size() != first.scales.size())
      throw refusal("experts of one layer differ in type or shape", "checkpoint",
                    "quantise them alike, or run this layer on a CPU");
  if (same.size() == 1 && !to.data)
    if (const auto known = shared_.find(first.bytes.data()); known != shared_.end()) return known->second;
  Matrix m{.pitch = row_pitch(first.type, first.columns),
           .rows = static_cast<int32_t>(first.rows),
           .columns = static_cast<int32_t>(first.columns),
           .expert_bytes = (row_pitch(first.type, first.columns) * first.rows + 255) / 256 * 256,
           .expert_scales = static_cast<int64_t>(first.scales.size() / sizeof(float)),
           .scale_pitch = static_cast<int32_t>((first.columns + 127) / 128),
           .heads_from = static_cast<int32_t>(units_bytes(first.type, first.columns)),
           .type = first.type};
  std::byte* const data = to.data ? to.data : take(static_cast<size_t>(m.expert_bytes) * same.size());
  std::byte* const scales = first.scales.empty() ? nullptr
                            : to.scales          ? to.scales
                                                 : take(first.scales.size() * same.size());
  for (size_t e = 0; e < same.size(); e++) {
    batch.copies.push_back({same[e]->bytes.data(), data + e * static_cast<size_t>(m.expert_bytes),
                            static_cast<size_t>(row_bytes(first.type, first.columns)),
                            static_cast<size_t>(m.pitch), static_cast<size_t>(first.rows)});
    if (scales) batch.add(same[e]->scales.data(), first.scales.size(), scales + e * first.scales.size());
  }
  m.data = data, m.scales = reinterpret_cast<const float*>(scales);
  if (is_arranged(m.type)) batch.arranged.emplace_back(m, static_cast<int>(same.size()));
  if (same.size() == 1) shared_[first.bytes.data()] = m;
  return m;
}

const float* WeightStore::place_vector(const WeightRef& ref, std::byte* to, Batch& batch) {
  if (ref.type != DType::f32 && ref.type != DType::f16 && ref.type != DType::bf16)
    throw refusal("a norm or bias in a quantised type", "checkpoint", "keep it in float32, bf16 or f16");
  std::vector<float>& values = batch.widened.emplace_back(static_cast<size_t>(ref.columns));
  const int bytes = block_size(ref.type).bytes;
  for (size_t i = 0; i < values.size(); i++)
    values[i] = widened(ref.type, ref.bytes.data() + i * static_cast<size_t>(bytes));
  if (!to) to = take(values.size() * sizeof(float));
  batch.add(values.data(), values.size() * sizeof(float), to);
  return reinterpret_cast<const float*>(to);
}

std::byte* WeightStore::take(size_t bytes) {
  memory_.emplace_back(bytes, "a weight");
  bytes_ += bytes;
  return memory_.back().as<std::byte>();
}

}  // namespace convoy::cuda
