#pragma once
// The weights of a FastBackend, in memory of its own: huge pages where the system has them, which two cores
// read at half as much again as the small ones that a file is mapped in; and quantised ones packed.

#include "gpu/backend.hpp"
#include "gpu/cpu/thread_pool.hpp"

namespace convoy::gpu {

class FastWeights {
 public:
  /// A copy by all of the pool's threads; a vector as float32. Throws OutOfMemory.
  Weight adopt(ThreadPool& pool, const model::Tensor& tensor);

 private:
  Buffer take(size_t bytes);

  Buffer chunk_;  // of which so many bytes are taken: one alone would seldom fill a huge page
  size_t taken_ = 0, size_ = 0;
};

}  // namespace convoy::gpu
