#pragma once
// What a step's kernels know of its rows and of the slots, at addresses that stay; and the kernel that fills
// it from the step's bytes.

#include "gpu/cuda/memory.hpp"
#include "gpu/cuda/step_buffer.hpp"

namespace convoy::cuda {

/// Pointers that kernels take by value.
struct RowTables {
  const StepHeader* header = nullptr;  // of the step that runs
  // Of each row.
  int32_t *slot = nullptr, *position = nullptr, *id = nullptr;
  int32_t *index = nullptr, *left = nullptr;  // its place among its sequence's rows; how many come from it on
  int32_t* sampled_row = nullptr;             // of each sampled row
  int32_t* sampled_last = nullptr;            // whether it is the last of its sequence
  // Of each slot.
  uint32_t* blocks = nullptr;  // [slots, entries]: its block table
  int32_t entries = 0;
  SlotSampling* sampling = nullptr;
  int32_t* last_token = nullptr;  // what it sampled last
  int32_t* history = nullptr;     // [slots, context]: its tokens by position; on the last stage
  int32_t context = 0;

  __device__ const uint32_t* table_of(int row) const {
    return blocks + slot[row] * static_cast<int64_t>(entries);
  }

  // For kernels that have not waited for those before them yet (launch.cuh): past the first-level cache,
  // which may hold the last step's.
  __device__ int early_position(int row) const { return __ldcg(position + row); }
  __device__ int early_index(int row) const { return __ldcg(index + row); }
  __device__ const uint32_t* early_table(int row) const {
    return blocks + __ldcg(slot + row) * static_cast<int64_t>(entries);
  }
};

/// Owns them.
class RowTableMemory {
 public:
  RowTableMemory() = default;
  RowTableMemory(const DeviceLimits& limits, const StepCapacity& capacity, bool samples);
  const RowTables& view() const { return view_; }
  /// The step's bytes on the device.
  std::byte* step() const { return step_.as<std::byte>(); }

 private:
  DeviceMemory step_, memory_[11];
  RowTables view_;
};

/// Applies starts and block changes, and writes the tables of the rows.
void expand_step(const RowTables& tables, int sequences_max, cudaStream_t stream);

}  // namespace convoy::cuda
