#pragma once
// A step as it is sent to the device: one run of bytes, written by StepWriter on the host and read by
// kernels. Host arithmetic only, so that it is tested without a device. Offsets are of the buffer's begin.

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "gpu/cuda/table.hpp"

namespace convoy::cuda {

/// A sequence's rows, and which of the step's sampled rows are its last ones.
struct StepSequence {
  int32_t slot, first_row, rows, first_position, sampled_rows, first_sampled;
};

/// A slot's sampling parameters, as kernels read them.
struct SlotSampling {
  float temperature, top_p, min_p;
  float presence_penalty, frequency_penalty, repetition_penalty;
  uint32_t top_k, top_logprobs, min_tokens, logprobs;
  uint64_t seed;
  uint32_t prompt_tokens, end_token_count;
  int32_t end_tokens[end_tokens_max];
};
struct StepStart {
  int32_t slot, unused;
  SlotSampling sampling;
};

/// At the buffer's begin. `rows`, `sampled` are what kernels are told to count to.
struct StepHeader {
  int32_t rows, sampled, sequences, starts, changes;
  int32_t sequences_at, ids_at, starts_at, changes_at;  // bytes
  int32_t bytes;                                        // of all
};

/// What a step may hold at most.
struct StepCapacity {
  int64_t rows = 0, slots = 0, table_entries = 0;  // table_entries: of a slot's block table

  int64_t sequences_at() const { return aligned(sizeof(StepHeader)); }
  int64_t bytes() const {
    return sequences_at() + aligned(rows * static_cast<int64_t>(sizeof(StepSequence))) + aligned(rows * 4) +
           aligned(slots * static_cast<int64_t>(sizeof(StepStart))) +
           aligned(slots * table_entries * static_cast<int64_t>(sizeof(gpu::BlockChange)));
  }
  static constexpr int64_t aligned(int64_t bytes) { return (bytes + 15) / 16 * 16; }
};

class StepWriter {
 public:
  explicit StepWriter(const StepCapacity& capacity)
      : capacity_(capacity), written_(static_cast<size_t>(capacity.slots * capacity.table_entries)) {}

  /// Writes the step to `to`, which has room for capacity.bytes(). Throws Failure for what no step may hold.
  const StepHeader& write(const Step& step, bool samples, std::byte* to);

 private:
  void write_changes(const Step& step, gpu::BlockChange* to, StepHeader& header);

  StepCapacity capacity_;
  // Of each table entry: which step changed it last, and where in that step's list. Of two changes of an
  // entry the later one counts, and kernels apply all of them at once.
  struct Written {
    uint64_t step = 0;
    int32_t at = 0;
  };
  std::vector<Written> written_;
  uint64_t steps_ = 0;
};

}  // namespace convoy::cuda
