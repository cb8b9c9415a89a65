#pragma once
// Counts what a test program allocates: it replaces operator new, so one file of a program includes it.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <thread>

namespace convoy::test {

/// Counts the program's allocations while it lives: all of them, or those of other threads than its own.
class Allocations {
 public:
  enum class Of : uint8_t { all_threads, other_threads };
  explicit Allocations(Of of) {
    count_ = 0, bytes_ = 0;
    own_ = of == Of::other_threads ? std::this_thread::get_id() : std::thread::id();
    counting_ = true;
  }
  ~Allocations() { counting_ = false; }
  size_t count() const { return count_; }
  size_t bytes() const { return bytes_; }

  static void* allocate(size_t bytes, size_t alignment) {
    if (counting_ && std::this_thread::get_id() != own_) count_++, bytes_ += bytes;
    void* memory = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
    if (!memory) throw std::bad_alloc();
    return memory;
  }

 private:
  static inline std::atomic<bool> counting_ = false;
  static inline std::thread::id own_;
  static inline std::atomic<size_t> count_ = 0, bytes_ = 0;
};

}  // namespace convoy::test

void* operator new(size_t bytes) {
  return convoy::test::Allocations::allocate(bytes, alignof(std::max_align_t));
}
void* operator new(size_t bytes, std::align_val_t alignment) {
  return convoy::test::Allocations::allocate(bytes, static_cast<size_t>(alignment));
}
// These go by the ones above in libstdc++, but not in AddressSanitizer.
void* operator new(size_t bytes, const std::nothrow_t&) noexcept try {
  return operator new(bytes);
} catch (const std::bad_alloc&) {
  return nullptr;
}
void* operator new(size_t bytes, std::align_val_t alignment, const std::nothrow_t&) noexcept try {
  return operator new(bytes, alignment);
} catch (const std::bad_alloc&) {
  return nullptr;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }
