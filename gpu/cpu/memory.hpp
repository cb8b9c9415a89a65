#pragma once
// The memory that operations of a CPU backend work in. A backend takes it before its first step
// (Backend::reserve), on its calling thread; loops of its pool then only use it.

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "gpu/backend.hpp"

namespace convoy::gpu {

/// From the kernel as untouched pages if large, huge ones where it has them, so a KV pool costs memory only
/// where it is used. Aligned to 64. Throws OutOfMemory.
Buffer allocate_aligned(size_t bytes);

/// Room for so many T. It only grows, and what it held is lost when it does.
template <class T>
class Room {
  static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T>);

 public:
  T* at_least(int64_t count) {
    if (count > count_) {
      memory_.reset();
      count_ = 0;
      memory_ = allocate_aligned(static_cast<size_t>(count) * sizeof(T));
      count_ = count;
    }
    return static_cast<T*>(memory_.get());
  }

 private:
  Buffer memory_;
  int64_t count_ = 0;
};

/// What each thread of a pool has to itself inside of a loop's body, which must not allocate.
class ThreadScratch {
 public:
  explicit ThreadScratch(int threads) : rooms_(static_cast<size_t>(threads)) {}

  /// So many bytes for each thread. Called before the loop that wants them.
  void reserve(size_t bytes) {
    if (bytes <= bytes_) return;
    for (Room<std::byte>& room : rooms_) room.at_least(static_cast<int64_t>(bytes));
    bytes_ = bytes;
  }
  std::byte* of(int thread) { return rooms_[static_cast<size_t>(thread)].at_least(0); }
  float* floats_of(int thread) { return reinterpret_cast<float*>(of(thread)); }

 private:
  std::vector<Room<std::byte>> rooms_;
  size_t bytes_ = 0;  // of each
};

// A set of rooms names each of them with its size once, in each(bounds, use), for both of these uses.

/// Takes the memory.
struct TakeRoom {
  void operator()(auto& room, int64_t count) const { room.at_least(count); }
};

/// Only counts it.
struct CountRoom {
  template <class T>
  void operator()(const Room<T>&, int64_t count) {
    bytes += static_cast<uint64_t>(count) * sizeof(T);
  }
  uint64_t bytes = 0;
};

}  // namespace convoy::gpu
