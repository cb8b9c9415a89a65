#include "cli/local_pipeline.hpp"

#include <algorithm>
#include <string>

#include "actors/stage/step_codec.hpp"
#include "cli/commands.hpp"
#include "gpu/sampler.hpp"
#include "model/error.hpp"

namespace convoy::cli {

LocalPipeline::LocalPipeline(std::shared_ptr<const model::Checkpoint> checkpoint,
                             const gpu::DeviceFactory& device, std::span<const int64_t> split,
                             int64_t tokens_max)
    : vocab_(static_cast<size_t>(checkpoint->config().vocab)) {
  const gpu::EngineLimits limits{.kv_blocks = static_cast<uint32_t>(gpu::kv_blocks_for(tokens_max)),
                                 .slots = 1,
                                 .context_tokens = tokens_max,
                                 .rows_per_step = rows_per_step};
  const int64_t layers = checkpoint->config().layers;
  int64_t first = 0;
  for (size_t stage = 0; stage <= split.size(); stage++) {
    const bool last = stage == split.size();
    const int64_t end = last ? layers : split[stage];
    if (end <= first || (!last && end >= layers))
      throw InputError("a stage cannot begin at layer " + std::to_string(end), "--split",
                       "give ascending layers from 1 to " + std::to_string(layers - 1));
    stages_.push_back(
        std::make_unique<gpu::Engine>(device, checkpoint, model::LayerRange{first, end - 1}, limits));
    first = end;
  }
  stages_.back()->keep_logits(true);
}

void LocalPipeline::start(size_t prompt_tokens, size_t tokens) {
  position_ = 0;
  next_ = {};
  next_.starts.push_back({0, static_cast<uint32_t>(prompt_tokens), {}});
  // Blocks lie backwards, so that a table is not just a count.
  const auto blocks = static_cast<uint32_t>(gpu::kv_blocks_for(tokens));
  for (uint32_t i = 0; i < blocks; i++) next_.block_changes.push_back({0, i, blocks - 1 - i});
}

void LocalPipeline::feed(std::span<const int32_t> tokens, size_t wanted, const UseLogits& use) {
  for (size_t at = 0; at < tokens.size(); at += rows_per_step) {
    const auto chunk = tokens.subspan(at, std::min(rows_per_step, tokens.size() - at));
    const size_t end = position_ + chunk.size();
    const size_t sampled = std::min(chunk.size(), end - std::min(end, wanted));
    next_.sequences.push_back(
        {0, static_cast<uint32_t>(position_), {chunk.begin(), chunk.end()}, static_cast<uint32_t>(sampled)});
    const std::span<const float> logits = run(next_);
    for (size_t i = 0; i < sampled; i++) {
      const size_t position = end - sampled + i;
      const auto row = logits.subspan(i * vocab_, vocab_);
      // Every comparison with it would be false, so a model of nothing but NaNs would be far from nothing.
      if (!gpu::all_finite(row))
        throw CheckFailed("the logits at position " + std::to_string(position) +
                          " are infinite or not a number: the weights are broken, or the backend is");
      use(position, row);
    }
    next_ = {};
    position_ = end;
  }
}

std::span<const float> LocalPipeline::run(const gpu::StepPlan& plan) {
  gpu::StepOutput out = stages_.front()->run(plan, {});
  for (size_t i = 1; i < stages_.size(); i++) {
    const auto frame = actors::encode_activations(plan, out.hidden);
    const schema::Reading received(frame);
    const gpu::StepPlan step = actors::decode(received->getPlan());
    out = stages_[i]->run(step, actors::decode_hidden(*received, step));
  }
  return stages_.back()->logits();
}

}  // namespace convoy::cli
