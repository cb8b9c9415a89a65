#include "bench/gpu_card.hpp"

#include <stdexcept>

#include "gpu/cuda/device.hpp"
#include "gpu/kv_block.hpp"
#include "gpu/stage_shape.hpp"

namespace convoy::bench {
namespace {

constexpr int64_t step_limit_us = 60'000'000;

}  // namespace

struct Card::State {
  State(int ordinal, const model::Checkpoint& checkpoint, uint32_t sequences, int64_t context)
      : range{0, checkpoint.config().layers - 1},
        shape(gpu::stage_shape(checkpoint.config(), range, false)),
        context(context),
        blocks(static_cast<uint32_t>(gpu::kv_blocks_for(context + 1))),
        rotations(checkpoint.config().rope, shape.head_dim, context + 1),
        device({.ordinal = ordinal}, shape) {
    device.enter();
    const model::StageWeights weights = checkpoint.stage(range);
    for (int64_t layer = 0; layer < range.count(); layer++)
      device.load(layer, gpu::parts_of(weights.layers[static_cast<size_t>(layer)]));
    device.load(-1, gpu::end_parts_of(weights));
    gpu::DeviceLimits limits;
    limits.kv_blocks = blocks * sequences, limits.slots = sequences, limits.context_tokens = context + 1;
    limits.rows = sequences, limits.kv_type = model::DType::bf16;
    device.prepare(limits, rotations.view());
  }

  void run(uint32_t rows) {
    std::vector<cuda::Start> starts(rows);
    std::vector<gpu::BlockChange> changes;
    std::vector<gpu::SlotRows> sequences;
    std::vector<int32_t> ids;
    for (uint32_t slot = 0; slot < rows; slot++) {
      starts[slot] = {};
      starts[slot].slot = slot, starts[slot].prompt_tokens = 1;
      starts[slot].sampling.top_p = starts[slot].sampling.repetition_penalty = 1;
      for (uint32_t i = 0; i < blocks; i++) changes.push_back({slot, i, slot * blocks + i});
      sequences.push_back({slot, slot, 1, context, 1});
      ids.push_back(static_cast<int32_t>((int64_t{slot} * 7919 + 11) % shape.vocab));
    }
    cuda::Step step{};
    step.number = ++number;
    step.starts = starts.data(), step.start_count = starts.size();
    step.changes = changes.data(), step.change_count = changes.size();
    step.sequences = sequences.data(), step.sequence_count = sequences.size();
    step.ids = ids.data(), step.rows = ids.size();
    device.submit(step);
    cuda::Done done{};
    if (!device.next_done(step_limit_us, done)) throw std::runtime_error("no step was done within a minute");
    for (uint64_t i = 0; i < done.sampled_count; i++)
      if (done.sampled[i].fault != 0) throw std::runtime_error("a row's logits are not finite");
    device.release(number);
  }

  model::LayerRange range;
  gpu::StageShape shape;
  int64_t context;
  uint32_t blocks;
  gpu::RotationTable rotations;
  cuda::CudaDevice device;
  std::vector<Graph> graphs;  // that groups point into
  uint64_t number = 0;
};

Card::Card(int ordinal, const model::Checkpoint& checkpoint, uint32_t sequences, int64_t context) {
  cuda::check_card(ordinal);
  state_ = std::make_unique<State>(ordinal, checkpoint, sequences, context);
}
Card::~Card() = default;

std::vector<Group> Card::step(uint32_t rows) {
  state_->run(rows);
  std::vector<Group> groups;
  std::vector<cudaGraphNode_t> ends;
  cuda::StepWatch watch;
  watch.after_group = [&](const char* name, int64_t layer) {
    groups.push_back({name, layer, {}});
    ends.push_back(last_captured(stream()));
  };
  const Graph& graph = state_->graphs.emplace_back(state_->device.capture(watch));
  const std::vector<Chain> parts = cut(graph.get(), ends);
  for (size_t i = 0; i < groups.size(); i++) groups[i].launches = parts[i];
  std::erase_if(groups, [](const Group& group) { return group.launches.empty(); });
  return groups;
}

cudaStream_t Card::stream() const { return state_->device.stream(); }

}  // namespace convoy::bench
