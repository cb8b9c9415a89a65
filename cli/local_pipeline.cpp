#include "cli/local_pipeline.hpp"

#include <algorithm>
#include <cassert>
#include <string>

#include "actors/stage/step_codec.hpp"
#include "cli/commands.hpp"
#include "gpu/sampler.hpp"
#include "model/error.hpp"

namespace convoy::cli {

LocalPipeline::LocalPipeline(std::shared_ptr<const model::Checkpoint> checkpoint,
                             const gpu::DeviceFactory& device, std::span<const int64_t> split,
                             int64_t tokens_max, std::optional<model::DType> kv_type)
    : vocab_(static_cast<size_t>(checkpoint->config().vocab)) {
  const gpu::EngineLimits limits{.kv_blocks = static_cast<uint32_t>(gpu::kv_blocks_for(tokens_max)),
                                 .slots = 1,
                                 .context_tokens = tokens_max,
                                 .rows_per_step = rows_per_step,
                                 .kv_type = kv_type};
  const int64_t layers = checkpoint->config().layers;
  int64_t first = 0;
  for (size_t stage = 0; stage <= split.size(); stage++) {
    const bool last = stage == split.size();
    const int64_t end = last ? layers : split[stage];
    if (end <= first || (!last && end >= layers))
      throw InputError("a stage cannot begin at layer " + std::to_string(end), "--split",
                       "give ascending layers from 1 to " + std::to_string(layers - 1));
    const model::Config& config = checkpoint->config();
    size_t with_experts = 0;
    for (int64_t layer = first; layer < end; layer++) with_experts += model::has_experts(config, layer);
    stages_.push_back(std::unique_ptr<Stage>(
        new Stage{{device, checkpoint, model::LayerRange{first, end - 1}, limits}, with_experts}));
    stages_.back()->engine.record_routing(true);
    if (config.moe) routing_.of_row = static_cast<size_t>(config.moe->routing.chosen);
    first = end;
  }
  stages_.back()->engine.keep_logits(true);
}

void LocalPipeline::start(size_t prompt_tokens, size_t tokens) {
  position_ = 0;
  next_ = {};
  next_.starts.push_back({0, static_cast<uint32_t>(prompt_tokens), {}});
  // Blocks lie backwards, so that a table is not just a count.
  const auto blocks = static_cast<uint32_t>(gpu::kv_blocks_for(tokens));
  for (uint32_t i = 0; i < blocks; i++) next_.block_changes.push_back({0, i, blocks - 1 - i});
}

std::vector<std::span<const int32_t>> LocalPipeline::steps_of(std::span<const int32_t> tokens) {
  std::vector<std::span<const int32_t>> steps;
  for (size_t at = 0; at < tokens.size(); at += rows_per_step)
    steps.push_back(tokens.subspan(at, std::min(rows_per_step, tokens.size() - at)));
  return steps;
}

void LocalPipeline::feed(std::span<const int32_t> tokens, size_t wanted, const UseLogits& use) {
  const size_t end = position_ + tokens.size(),
               sampled = std::min(tokens.size(), end - std::min(end, wanted));
  next_.sequences.push_back(
      {0, static_cast<uint32_t>(position_), {tokens.begin(), tokens.end()}, static_cast<uint32_t>(sampled)});
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

gpu::StepOutput LocalPipeline::run_stage(Stage& stage, const gpu::StepPlan& plan,
                                         std::span<const float> input) {
  const size_t values = stage.layers_with_experts * routing_.rows * routing_.of_row;
  if (!replayed_.empty())
    stage.engine.replay_routing(std::span(replayed_).subspan(routing_.experts.size(), values));
  const gpu::StepOutput out = stage.engine.run(plan, input);
  const auto own = stage.engine.routing();
  routing_.experts.insert(routing_.experts.end(), own.begin(), own.end());
  return out;
}

std::span<const float> LocalPipeline::run(const gpu::StepPlan& plan) {
  routing_.experts.clear();
  routing_.rows = static_cast<size_t>(plan.rows());
  gpu::StepOutput out = run_stage(*stages_.front(), plan, {});
  for (size_t i = 1; i < stages_.size(); i++) {
    const auto frame = actors::encode_activations(plan, out.hidden);
    const schema::Reading received(frame);
    const gpu::StepPlan step = actors::decode(received->getPlan());
    out = run_stage(*stages_[i], step, actors::decode_hidden(*received, step).values());
  }
  replayed_.clear();
  return stages_.back()->engine.logits();
}

size_t StepRouting::differing_rows(const StepRouting& other) const {
  assert(rows == other.rows && of_row == other.of_row && experts.size() == other.experts.size());
  if (of_row == 0) return 0;
  std::vector<bool> differs(rows);
  for (size_t at = 0; at < experts.size(); at += of_row) {
    const auto of = [&](const StepRouting& routing) {
      return std::span(routing.experts).subspan(at, of_row);
    };
    if (!std::ranges::equal(of(*this), of(other))) differs[at / of_row % rows] = true;
  }
  return static_cast<size_t>(std::ranges::count(differs, true));
}

}  // namespace convoy::cli
