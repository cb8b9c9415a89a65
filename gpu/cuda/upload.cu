#include "gpu/cuda/upload.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>

namespace convoy::cuda {
namespace {

/// A thread copies 3 to 6 GB/s out of mapped pages, a card takes some 50.
constexpr size_t threads_max = 16;
constexpr size_t piece_bytes = size_t{2} << 20;

/// For one call the system may read no more than its window: what is beyond is left to faults, a page each.
constexpr size_t read_ahead_bytes = size_t{128} << 10;

/// Lets the system read the piece's pages together, if they are a file's.
void will_need(const std::byte* from, size_t bytes) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE)), first = reinterpret_cast<uintptr_t>(from);
  for (uintptr_t at = first & ~(page - 1); at < first + bytes; at += read_ahead_bytes)
    madvise(reinterpret_cast<void*>(at), std::min(read_ahead_bytes, first + bytes - at), MADV_WILLNEED);
}

std::vector<HostCopy> cut(std::span<const HostCopy> copies) {
  std::vector<HostCopy> pieces;
  for (HostCopy copy : copies) {
    if (copy.row_bytes == copy.pitch)  // a run of bytes
      copy.rows *= copy.pitch, copy.row_bytes = copy.pitch = 1;
    const size_t at_once = std::max<size_t>(1, piece_bytes / copy.pitch);
    for (size_t first = 0; first < copy.rows; first += at_once)
      pieces.push_back({copy.from + first * copy.row_bytes, copy.to + first * copy.pitch, copy.row_bytes,
                        copy.pitch, std::min(at_once, copy.rows - first)});
  }
  return pieces;
}

}  // namespace

Uploader::Uploader() {
  const size_t threads = std::clamp<size_t>(std::thread::hardware_concurrency(), 1, threads_max);
  for (size_t i = 0; i < threads; i++) lanes_.push_back(std::make_unique<Lane>());
}
Uploader::~Uploader() = default;

void Uploader::send(std::span<const HostCopy> copies) {
  const std::vector<HostCopy> pieces = cut(copies);
  int card = 0;
  check(cudaGetDevice(&card), "cudaGetDevice");
  std::atomic<size_t> next{0};
  std::mutex mutex;
  std::exception_ptr failure;
  const auto work = [&](Lane& lane) {
    try {
      check(cudaSetDevice(card), "cudaSetDevice");
      for (size_t i; (i = next++) < pieces.size();) lane.send(pieces[i]);
    } catch (...) {
      const std::scoped_lock lock(mutex);
      failure = std::current_exception();
      next = pieces.size();
    }
  };
  {
    std::vector<std::jthread> threads;
    for (size_t i = 1; i < std::min(lanes_.size(), pieces.size()); i++)
      threads.emplace_back(work, std::ref(*lanes_[i]));
    work(*lanes_.front());
  }
  if (failure) std::rethrow_exception(failure);
}

/// One that the default stream waits for, and that waits for it: memory is zeroed there.
void Uploader::Lane::open() {
  check(cudaStreamCreate(&stream), "cudaStreamCreate");
  for (cudaEvent_t& event : sent)
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
}

Uploader::Lane::~Lane() {
  if (!stream) return;
  cudaStreamSynchronize(stream);
  for (const cudaEvent_t event : sent)
    if (event) cudaEventDestroy(event);
  cudaStreamDestroy(stream);
}

void Uploader::Lane::send(const HostCopy& piece) {
  if (!stream) open();
  const size_t bytes = piece.rows * piece.pitch;
  PinnedMemory& buffer = buffers[turn];
  check(cudaEventSynchronize(sent[turn]), "sending weights");
  if (buffer.bytes() < bytes) buffer = PinnedMemory(std::max(bytes, piece_bytes));
  will_need(piece.from, piece.rows * piece.row_bytes);
  if (piece.row_bytes == piece.pitch) {
    std::memcpy(buffer.get(), piece.from, bytes);
  } else {
    std::memset(buffer.get(), 0, bytes);
    for (size_t r = 0; r < piece.rows; r++)
      std::memcpy(buffer.get() + r * piece.pitch, piece.from + r * piece.row_bytes, piece.row_bytes);
  }
  check(cudaMemcpyAsync(piece.to, buffer.get(), bytes, cudaMemcpyHostToDevice, stream), "sending weights");
  check(cudaEventRecord(sent[turn], stream), "cudaEventRecord");
  turn = (turn + 1) % buffers.size();
}

}  // namespace convoy::cuda
