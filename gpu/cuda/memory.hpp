#pragma once
// Memory of the device, and host memory that it can reach by itself. Each block has one owner.

#include <cstring>
#include <utility>

#include "gpu/cuda/check.hpp"

namespace convoy::cuda {

inline std::string mebibytes(size_t bytes) { return std::to_string((bytes + (1 << 20) - 1) >> 20) + " MiB"; }

/// Throws Failure with the numbers and what to change.
[[noreturn]] inline void out_of_memory(size_t bytes, const char* what) {
  cudaGetLastError();  // it is told here
  size_t free = 0, total = 0;
  cudaMemGetInfo(&free, &total);
  throw Failure(
      Code::out_of_memory,
      std::string(what) + " of " + mebibytes(bytes) + " does not fit: " + mebibytes(free) + " of " +
          mebibytes(total) + " are free",
      "the card's memory",
      "lower pipeline.kv_tokens, the context, or the layers of this stage, or end what else uses the card");
}

/// Bytes of the device, zeroed.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  DeviceMemory(size_t bytes, const char* what) : bytes_(bytes) {
    if (bytes == 0) return;
    const cudaError_t error = cudaMalloc(&data_, bytes);
    if (error == cudaErrorMemoryAllocation) out_of_memory(bytes, what);
    check(error, "cudaMalloc");
    check(cudaMemset(data_, 0, bytes), "cudaMemset");
  }
  DeviceMemory(DeviceMemory&& from) noexcept
      : data_(std::exchange(from.data_, nullptr)), bytes_(std::exchange(from.bytes_, 0)) {}
  DeviceMemory& operator=(DeviceMemory&& from) noexcept {
    std::swap(data_, from.data_), std::swap(bytes_, from.bytes_);
    return *this;
  }
  ~DeviceMemory() {
    if (data_) cudaFree(data_);
  }

  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

/// Takes device memory, or only counts what would be taken.
class Taker {
 public:
  explicit Taker(bool takes, bool poison = false) : takes_(takes), poison_(poison) {}
  DeviceMemory operator()(int64_t bytes, const char* what) {
    bytes_ += static_cast<uint64_t>(bytes);
    return takes_ ? DeviceMemory(static_cast<size_t>(bytes), what) : DeviceMemory();
  }
  /// Makes NaNs of it, if that was asked for.
  void poison(const DeviceMemory& memory) const {
    if (poison_ && memory.bytes() > 0)
      check(cudaMemset(memory.as<void>(), 0xff, memory.bytes()), "cudaMemset");
  }
  uint64_t bytes() const { return bytes_; }
  bool takes() const { return takes_; }

 private:
  bool takes_, poison_;
  uint64_t bytes_ = 0;
};

/// Page-locked memory of the host.
class PinnedMemory {
 public:
  PinnedMemory() = default;
  explicit PinnedMemory(size_t bytes) : bytes_(bytes) {
    if (bytes == 0) return;
    const cudaError_t error = cudaMallocHost(&data_, bytes);
    if (error == cudaErrorMemoryAllocation) {
      cudaGetLastError();
      throw Failure(Code::out_of_memory, mebibytes(bytes) + " of page-locked memory were refused",
                    "the host's memory", "free memory on the host");
    }
    check(error, "cudaMallocHost");
    std::memset(data_, 0, bytes);
  }
  PinnedMemory(PinnedMemory&& from) noexcept
      : data_(std::exchange(from.data_, nullptr)), bytes_(std::exchange(from.bytes_, 0)) {}
  PinnedMemory& operator=(PinnedMemory&& from) noexcept {
    std::swap(data_, from.data_), std::swap(bytes_, from.bytes_);
    return *this;
  }
  ~PinnedMemory() {
    if (data_) cudaFreeHost(data_);
  }

  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  std::byte* get() const { return as<std::byte>(); }
  size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace convoy::cuda
