#pragma once
// Edge: one end of the way of hidden states straight between the devices of two stages, by NCCL: a
// communicator of the two, and a stream of its own that events tie to the one that computes. The device's
// thread calls it, and never waits for the other end: what that owes holds up streams alone, until the edge
// is given up.

#include <array>
#include <bit>
#include <string>

#include "gpu/cuda/memory.hpp"
#include "gpu/cuda/nccl.hpp"
#include "gpu/cuda/table.hpp"

namespace convoy::cuda {

class Edge {
 public:
  /// Whether there is an NCCL here.
  static bool possible() { return nccl::find() != nullptr; }

  /// The end that sends, from the current card, steps of so many bytes at most. Begins to wait for the other
  /// one, which has to be told the key.
  explicit Edge(size_t bytes_max);
  /// The end that receives, on the current card. Begins to look for the one whose key it is.
  explicit Edge(const EdgeKey& key);
  /// Gives up what is under way, which takes half a second if the other end has died.
  ~Edge();
  Edge(const Edge&) = delete;
  Edge& operator=(const Edge&) = delete;

  /// Looks how far it is. Until it is up, it has to be asked, to go on.
  EdgeState state();
  /// Why it failed.
  const std::string& reason() const { return reason_; }
  EdgeKey key() const { return std::bit_cast<EdgeKey>(id_); }

  // Once it is up. Both ends do it for the same steps, in the same order.

  /// Where a step's bytes are to be written by `compute`, which waits until those before the last are sent.
  void* room(cudaStream_t compute);
  /// Sends what `compute` has written there.
  void send(size_t bytes, cudaStream_t compute);
  /// What follows in `compute` has a step's bytes. They are asked for when what comes before is done: a
  /// receive that waits keeps multiprocessors busy.
  void receive(void* to, size_t bytes, cudaStream_t compute);

 private:
  /// looking: for the other end. greeting: a byte goes over, so that all connections are made.
  enum class Stage : uint8_t { looking, greeting, up, failed };

  Edge(EdgeEnd end, size_t slot_bytes);
  void look_for_other(int own_rank);
  nccl::Result progress();
  void greet();
  void fail(nccl::Result result);
  void finish(nccl::Result result, const char* what);

  const nccl::Library& library_;
  const EdgeEnd end_;
  nccl::UniqueId id_{};
  Stage stage_ = Stage::looking;
  std::string reason_;
  nccl::Communicator* communicator_ = nullptr;
  cudaStream_t stream_ = nullptr;
  struct Slot {
    DeviceMemory memory;  // what is sent; of the end that receives a byte, to be greeted with
    cudaEvent_t ready = nullptr, over = nullptr;
  };
  std::array<Slot, 2> slots_;
  size_t steps_ = 0;  // the next one's slot is its number's among them
};

}  // namespace convoy::cuda
