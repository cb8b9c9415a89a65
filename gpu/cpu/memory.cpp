#include "gpu/cpu/memory.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <new>

#include "model/out_of_memory.hpp"

namespace convoy::gpu {

namespace {

/// Pages of this size are asked for where memory is read as it comes: keys and values of many sequences lie
/// anywhere in a pool, and a walk through tables of small pages takes longer than what one of them holds.
constexpr uintptr_t huge_page_bytes = 2 << 20;

/// A hint: where the system does not take it, small pages serve.
void want_huge_pages(void* memory, size_t bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(memory);
  const uintptr_t first = (begin + huge_page_bytes - 1) / huge_page_bytes * huge_page_bytes;
  const uintptr_t last = (begin + bytes) / huge_page_bytes * huge_page_bytes;
  if (first < last) ::madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
}

}  // namespace

Buffer allocate_aligned(size_t bytes) {
  constexpr std::align_val_t alignment{64};
  void* memory = operator new(std::max<size_t>(bytes, 1), alignment, std::nothrow);
  if (!memory) throw OutOfMemory(bytes);
  want_huge_pages(memory, bytes);
  return Buffer(memory, [](void* p) { operator delete(p, alignment); });
}

}  // namespace convoy::gpu
