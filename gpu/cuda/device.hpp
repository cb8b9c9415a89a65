#pragma once
// A layer range on one card: takes steps in order, two in flight, and gives results back. The host writes a
// step's bytes into page-locked memory, one transfer carries them over, and the launches of its kind are
// replayed as a graph. Waits for nothing in submit().

#include <array>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "gpu/cuda/edge.hpp"
#include "gpu/cuda/forward.hpp"
#include "gpu/cuda/row_tables.hpp"

namespace convoy::cuda {

/// Throws Failure if there is none, or no driver that knows this CUDA.
int count_cards();
/// Throws Failure if there is no such card, or it is none that this library has machine code for.
void check_card(int ordinal);

class CudaDevice {
 public:
  /// Throws Failure for a shape that there are no kernels for. Takes nothing of the card.
  CudaDevice(const OpenOptions& options, const StageShape& shape);
  ~CudaDevice();
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;

  Facts facts() const;
  Needs needs(const DeviceLimits& limits) const;
  uint64_t memory_bytes() const;
  void load(int64_t layer, std::span<const WeightRef> parts) { forward_.load(layer, parts); }
  void prepare(const DeviceLimits& limits, const Rotations& rotations);
  void submit(const Step& step);
  bool next_done(int64_t wait_us, Done& done);
  void release(uint64_t number);
  void reset();
  void save_block(uint32_t block, std::byte* to);
  void load_block(uint32_t block, const std::byte* from);
  void page_lock(void* memory, uint64_t bytes);
  EdgeKey offer_edge();
  void join_edge(const EdgeKey& key);
  void end_edge(EdgeEnd end) { edges_[static_cast<size_t>(end)].reset(); }
  /// Nothing, if none was begun.
  Edge* edge(EdgeEnd end) const { return edges_[static_cast<size_t>(end)].get(); }
  /// The calling thread speaks to this card.
  void enter() const;

  /// The launches of the step that was begun last, for who measures them: they find on the card what the step
  /// found there. The caller destroys the graph, and has no step in flight when it runs.
  cudaGraph_t capture(const StepWatch& watch) { return capture(last_, watch); }
  cudaStream_t stream() const { return stream_; }

 private:
  static constexpr uint32_t depth = 2;
  /// What a step in flight has to itself.
  struct Flight {
    PinnedMemory step, history, in, out, results, logits, routing;
    cudaEvent_t begun = nullptr, done = nullptr;
    uint64_t number = 0;
    int64_t rows = 0, sampled = 0;
    void* hidden_to = nullptr;  // where the caller wants them
    size_t hidden_bytes = 0;
    int32_t* routing_to = nullptr;  // the same
    bool logits_kept = false;
    enum class State : uint8_t { free, running, given_out } state = State::free;
  };
  struct Graph {
    cudaGraphExec_t launches = nullptr;
    ~Graph() {
      if (launches) cudaGraphExecDestroy(launches);
    }
  };

  void warm_up();
  cudaGraph_t capture(const Bucket& bucket, const StepWatch& watch);
  void run(const Bucket& bucket);
  void take_histories(const Step& step, Flight& flight);
  void take_hidden(const Step& step, int64_t values, Flight& flight);
  void give_hidden(const Step& step, int64_t values, Flight& flight);
  size_t routing_bytes(int64_t rows) const;
  /// Bytes of so many hidden states in the activations' type.
  size_t own_bytes(int64_t values) const {
    return static_cast<size_t>(values) * (options_.activations == Activations::bf16 ? 2 : sizeof(float));
  }
  void run_watched(const Bucket& bucket, const Step& step, Flight& flight);

  OpenOptions options_;
  StageShape shape_;
  DeviceLimits limits_;
  Forward forward_;
  RowTableMemory tables_;
  std::optional<StepWriter> writer_;
  DeviceMemory results_;   // of the step that runs
  DeviceMemory replayed_;  // a routing; taken when one is
  DeviceMemory narrow_;    // its hidden states in bf16, on their way in or out
  std::map<Bucket, Graph> graphs_;
  cudaStream_t stream_ = nullptr;
  std::array<Flight, depth> flights_;
  std::array<std::unique_ptr<Edge>, gpu::edge_ends> edges_;
  std::vector<void*> page_locked_;      // memory of the host
  Bucket last_;                         // of the step that was begun last
  uint64_t begun_ = 0, given_out_ = 0;  // steps; a step's flight is its number's among them
};

}  // namespace convoy::cuda
