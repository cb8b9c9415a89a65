#include "gpu/cpu/memory.hpp"

#include <algorithm>
#include <new>

#include "model/out_of_memory.hpp"

namespace convoy::gpu {

Buffer allocate_aligned(size_t bytes) {
  constexpr std::align_val_t alignment{64};
  void* memory = operator new(std::max<size_t>(bytes, 1), alignment, std::nothrow);
  if (!memory) throw OutOfMemory(bytes);
  return Buffer(memory, [](void* p) { operator delete(p, alignment); });
}

}  // namespace convoy::gpu
