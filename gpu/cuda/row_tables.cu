#include "gpu/cuda/row_tables.hpp"

#include "gpu/cuda/launch.cuh"
#include "gpu/kv_block.hpp"
#include "gpu/step.hpp"

namespace convoy::cuda {
namespace {

constexpr int expand_threads = 128;

template <class T>
__device__ const T* part(const StepHeader& header, int32_t at) {
  return reinterpret_cast<const T*>(reinterpret_cast<const std::byte*>(&header) + at);
}

/// A block a sequence; all blocks share starts and changes. Nothing here reads what another block writes.
/// The next kernel begins when this one has ended: so all that follow may read these tables before they wait
/// (RowTables::early_position).
__global__ void __launch_bounds__(expand_threads) expand(const RowTables t) {
  wait_for_previous();
  const StepHeader& header = *t.header;
  const int thread = static_cast<int>(threadIdx.x), block = static_cast<int>(blockIdx.x);
  const int everywhere = block * expand_threads + thread, all = static_cast<int>(gridDim.x) * expand_threads;
  const auto* changes = part<gpu::BlockChange>(header, header.changes_at);
  for (int i = everywhere; i < header.changes; i += all)
    t.blocks[changes[i].slot * static_cast<int64_t>(t.entries) + changes[i].index] = changes[i].block;
  const auto* starts = part<StepStart>(header, header.starts_at);
  for (int i = everywhere; i < header.starts; i += all) t.sampling[starts[i].slot] = starts[i].sampling;

  const int32_t* ids = part<int32_t>(header, header.ids_at);
  for (int s = block; s < header.sequences; s += static_cast<int>(gridDim.x)) {
    const StepSequence sequence = part<StepSequence>(header, header.sequences_at)[s];
    for (int i = thread; i < sequence.rows; i += expand_threads) {
      const int row = sequence.first_row + i, position = sequence.first_position + i;
      const int32_t given = ids[row];
      const int32_t id = given == gpu::token_fed_back ? t.last_token[sequence.slot] : given;
      t.slot[row] = sequence.slot, t.position[row] = position, t.id[row] = id;
      t.index[row] = i, t.left[row] = sequence.rows - i;
      if (t.history) t.history[sequence.slot * static_cast<int64_t>(t.context) + position] = id;
    }
    for (int i = thread; i < sequence.sampled_rows; i += expand_threads) {
      t.sampled_row[sequence.first_sampled + i] =
          sequence.first_row + sequence.rows - sequence.sampled_rows + i;
      t.sampled_last[sequence.first_sampled + i] = i == sequence.sampled_rows - 1;
    }
  }
  __threadfence();
}

}  // namespace

RowTableMemory::RowTableMemory(const DeviceLimits& limits, const StepCapacity& capacity, bool samples)
    : step_(static_cast<size_t>(capacity.bytes()), "a step's buffer") {
  int next = 0;
  const auto array = [&]<class T>(T*& to, int64_t count) {
    memory_[next] = DeviceMemory(static_cast<size_t>(count) * sizeof(T), "a table of rows or slots");
    to = memory_[next++].as<T>();
  };
  view_.header = step_.as<StepHeader>();
  view_.entries = static_cast<int32_t>(capacity.table_entries);
  view_.context = static_cast<int32_t>(limits.context_tokens);
  array(view_.slot, limits.rows), array(view_.position, limits.rows), array(view_.id, limits.rows);
  array(view_.index, limits.rows), array(view_.left, limits.rows);
  array(view_.sampled_row, limits.rows), array(view_.sampled_last, limits.rows);
  array(view_.blocks, int64_t{limits.slots} * capacity.table_entries);
  array(view_.sampling, limits.slots), array(view_.last_token, limits.slots);
  if (samples) array(view_.history, limits.slots * limits.context_tokens);
}

void expand_step(const RowTables& tables, int sequences_max, cudaStream_t stream) {
  launch("expand", expand, static_cast<unsigned>(sequences_max < 1 ? 1 : sequences_max), expand_threads, 0,
         stream, tables);
}

}  // namespace convoy::cuda
