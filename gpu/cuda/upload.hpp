#pragma once
// Uploader: bytes of the host's memory, mostly of mapped files, to the card. Several threads copy pieces into
// page-locked buffers of their own; while one buffer is sent, its thread fills the other. Reads of the disk
// and page faults are theirs too, so all of these overlap.

#include <array>
#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "gpu/cuda/memory.hpp"

namespace convoy::cuda {

/// Rows that lie one behind the other go to addresses `pitch` apart, with zeros in between.
struct HostCopy {
  const std::byte* from = nullptr;
  std::byte* to = nullptr;
  size_t row_bytes = 0, pitch = 0, rows = 0;
};

class Uploader {
 public:
  Uploader();
  /// Waits until all is on the card.
  ~Uploader();
  Uploader(const Uploader&) = delete;
  Uploader& operator=(const Uploader&) = delete;

  /// All of the copies. They are read when this returns, and on the card before work that is given to its
  /// default stream later.
  void send(std::span<const HostCopy> copies);

 private:
  /// What a thread has to itself.
  struct Lane {
    cudaStream_t stream = nullptr;
    std::array<PinnedMemory, 2> buffers;
    std::array<cudaEvent_t, 2> sent{};
    size_t turn = 0;
    ~Lane();
    void open();
    void send(const HostCopy& piece);
  };
  std::vector<std::unique_ptr<Lane>> lanes_;
};

}  // namespace convoy::cuda
