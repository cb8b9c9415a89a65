// What a forward pass takes of the card's memory, and which bucket's launches a step gets: both follow from a
// range's shape and limits.

#include <algorithm>

#include "gpu/cuda/forward.hpp"
#include "gpu/cuda/gemm_wgmma.hpp"
#include "gpu/kv_block.hpp"

namespace convoy::cuda {
namespace {

/// Steps of more rows fill the card without cutting attention into parts.
constexpr int64_t parted_rows_max = 64;
constexpr int64_t parts_limit = 64, part_tokens_min = 256;
/// Logits that are there at once.
constexpr int64_t head_rows_max = 256;

}  // namespace

int64_t Forward::kv_block_bytes(DType type) const {
  int64_t width = 0;
  for (const int64_t of_stream : shape_.cache_widths) width += of_stream;
  return shape_.layers * gpu::kv_block_tokens * width * block_size(type).bytes;
}

Needs Forward::needs(const DeviceLimits& limits) {
  Taker activations(false), scratch(false);
  take_activations(limits, activations), take_scratch(limits, scratch);
  return {0, static_cast<uint64_t>(kv_block_bytes(limits.kv_type)), activations.bytes(), scratch.bytes()};
}

void Forward::prepare(const DeviceLimits& limits, const Rotations& rotations) {
  limits_ = limits;
  weights_.end_loading();
  if (activations_ == Activations::bf16 && !shape_.deterministic) blas_ = Blas::find();
  Taker take(true, poison_);
  take_activations(limits, take), take_scratch(limits, take);
  const auto table = [&](DeviceMemory& to, std::span<const float> values) {
    to = take(static_cast<int64_t>(values.size_bytes()), "rotations");
    check(cudaMemcpy(to.as<void>(), values.data(), values.size_bytes(), cudaMemcpyHostToDevice),
          "sending rotations");
  };
  table(cosines_, rotations.cosines), table(sines_, rotations.sines);
  rotations_ = {cosines_.as<float>(), sines_.as<float>(), static_cast<int32_t>(rotations.half),
                rotations.pairs == model::RopePairs::interleaved};
  for (int64_t layer = 0; layer < shape_.layers; layer++)
    for (const int64_t width : shape_.cache_widths) {
      cache_.push_back(
          take(limits.kv_blocks * gpu::kv_block_tokens * width * block_size(limits.kv_type).bytes,
               "the cache of keys and values"));
      take.poison(cache_.back());
    }
}

void Forward::take_activations(const DeviceLimits& limits, Taker& take) {
  const StageShape& s = shape_;
  const int64_t rows = limits.rows;
  const auto buffer = [&](RowBuffer& to, int64_t count, int64_t width, Activations type) {
    if (width == 0) return;
    to.type = type, to.pitch = padded(width);
    to.memory = take(count * to.pitch * (type == Activations::bf16 ? 2 : 4), "activations");
    if (to.pitch == width) take.poison(to.memory);  // what pads a row to whole chunks has to be 0
  };
  constexpr auto f32 = Activations::f32;
  x_ = take(rows * s.hidden * 4, "activations"), take.poison(x_);
  buffer(h_, rows, s.hidden, activations_);
  if (activations_ == Activations::bf16)
    squares_ = take(std::min<int64_t>(rows, wgmma_rows_max) * wgmma_tiles_max * 4, "activations");
  if (s.has_latent) {
    const int64_t down = s.latent.q_rank > 0 ? s.latent.q_rank : s.heads * s.latent.query();
    buffer(projected_, rows, padded(down) + s.latent.cached(), f32);
    if (s.latent.q_rank > 0) {
      buffer(q_a_, rows, s.latent.q_rank, activations_);
      buffer(q_, rows, s.heads * s.latent.query(), f32);
    }
    buffer(absorbed_, rows, s.heads * s.latent.cached(), f32);
    buffer(latents_, rows, s.heads * s.latent.latent, activations_);
    buffer(attended_, rows, s.heads * s.latent.value, activations_);
  } else {
    buffer(projected_, rows, padded(s.heads * s.head_dim) + padded(s.kv_heads * s.head_dim) * 2, f32);
    buffer(attended_, rows, s.heads * s.head_dim, activations_);
  }
  const int64_t gated = std::max(s.intermediate, s.shared_experts * s.expert_width);
  buffer(gates_, rows, padded(gated) * 2, f32), buffer(gated_, rows, gated, activations_);
  if (s.has_experts) {
    const int64_t visits = rows * (s.routing.chosen + s.shared_experts);
    buffer(router_, rows, s.routing.experts, f32);
    router_.pitch = s.routing.experts;
    if (activations_ == Activations::bf16 && !s.deterministic && rows > wgmma_rows_max)
      buffer(gathered_, visits, s.hidden, activations_);
    buffer(expert_gates_, visits, padded(s.expert_width) * 2, f32);
    buffer(expert_gated_, visits, s.expert_width, activations_), buffer(expert_out_, visits, s.hidden, f32);
    expert_out_.pitch = s.hidden;
  }
  if (s.last) {
    head_rows_ = static_cast<int>(std::min(rows, head_rows_max));
    buffer(head_in_, head_rows_, s.hidden, activations_), buffer(logits_, head_rows_, s.vocab, f32);
    logits_.pitch = s.vocab;
  }
}

void Forward::take_scratch(const DeviceLimits& limits, Taker& take) {
  const StageShape& s = shape_;
  if (s.has_experts) {
    const int64_t visits = limits.rows * (s.routing.chosen + s.shared_experts);
    const auto table = [&]<class T>(T*& to, int64_t count) {
      routing_memory_.push_back(take(count * static_cast<int64_t>(sizeof(T)), "routing"));
      to = routing_memory_.back().as<T>();
    };
    table(routing_.expert, visits), table(routing_.weight, visits), table(routing_.place, visits);
    table(routing_.visit_row, visits), table(routing_.visits, 1), table(routing_.tile_count, 1);
    table(routing_.tiles, tiles_max({.routing = s.routing,
                                     .shared = static_cast<int32_t>(s.shared_experts),
                                     .rows = {.max = static_cast<int32_t>(limits.rows)},
                                     .tile_rows = skinny_rows}));
  }
  if (s.last) counts_ = take(head_rows_ * s.vocab * 4, "counts of tokens");
  if (activations_ == Activations::bf16 && !s.deterministic && limits.rows > narrow_rows_max)
    expanded_ = take(expanded_bytes, "weights in bf16");
  part_tokens_ = static_cast<int>(std::max(
      part_tokens_min,
      gpu::kv_blocks_for((limits.context_tokens + parts_limit - 1) / parts_limit) * gpu::kv_block_tokens));
  parts_max_ = static_cast<int>((limits.context_tokens + part_tokens_ - 1) / part_tokens_);
  const int64_t value_width = s.has_latent ? s.latent.latent : s.head_dim;
  on_tensor_cores_ = attends_on_tensor_cores(
      {.key_width = static_cast<int32_t>(s.has_latent ? s.latent.cached() : s.head_dim),
       .value_width = static_cast<int32_t>(value_width),
       .latent = s.has_latent,
       .keys = {.type = limits.kv_type},
       .out = {.type = activations_},
       .ordered = s.deterministic});
  int64_t parts = parts_max_ > 1 ? std::min(limits.rows, parted_rows_max) * parts_max_ : 0;
  // As many rows as leave blocks to share have, together, at most so many shares.
  if (on_tensor_cores_) parts = std::max<int64_t>(parts, shared_blocks_max / attention_blocks_of_row());
  if (parts > 0)
    partial_ = take(parts * s.heads * (value_width + 4) * 4, "attention's parts"), take.poison(partial_);
  if (on_tensor_cores_ && take.takes()) cluster_room_ = cluster_room(s.has_latent);
  if (on_tensor_cores_) arrived_ = take(int64_t{shared_blocks_max} * 4, "attention's counters");
}

Bucket Forward::bucket(const StepSize& step) const {
  Bucket b;
  if (step.rows == 0) return b;
  b.rows = bucket_rows(step.rows, limits_.rows);
  if (step.sampled > 0) b.sampled = bucket_rows(step.sampled, b.rows);
  if (on_tensor_cores_) {
    if (!shape_.has_latent) b.runs = runs_of(step.longest_run);
    if (b.runs == Runs::many) return b;
    b.parts = shares_of_row(b.rows * attention_blocks_of_row(),
                            shape_.has_latent ? shared_blocks_max / 2 : shared_blocks_max, step.longest,
                            cluster_room_);
    return b;
  }
  const int64_t parts = (step.longest + part_tokens_ - 1) / part_tokens_;
  if (b.rows <= parted_rows_max && parts > 1) b.parts = at_least(parts, parts_max_);
  return b;
}

int Forward::cluster(const Bucket& bucket) const {
  return cluster_of(bucket.rows * attention_blocks_of_row(), bucket.parts, cluster_room_);
}

/// How many blocks attend with a row where none share its positions.
int64_t Forward::attention_blocks_of_row() const {
  const int64_t keys = shape_.has_latent ? 1 : shape_.kv_heads, tile = 16;
  return keys * ((shape_.heads / keys + tile - 1) / tile);
}

}  // namespace convoy::cuda
