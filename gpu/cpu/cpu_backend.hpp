#pragma once
// CpuBackend: what the two CPU backends have in common. Memory is the process's own and nothing is queued, so
// much of the interface is the same for both; so are rotations, latent attention of prompts, the choice of
// experts and sampling.

#include <algorithm>
#include <string>
#include <string_view>

#include "gpu/backend.hpp"
#include "gpu/cpu/experts.hpp"
#include "gpu/cpu/latent.hpp"
#include "gpu/cpu/memory.hpp"
#include "gpu/cpu/rotate.hpp"
#include "gpu/cpu/thread_pool.hpp"
#include "gpu/sampler.hpp"

namespace convoy::gpu {

class CpuBackend : public Backend {
 public:
  /// kernels: names what shapes the bits of logits.
  CpuBackend(std::string_view kernels, int threads)
      : pool_(threads),
        scratch_(threads),
        variant_(std::string(kernels) + " " + std::string(sampling_rule)) {}

  std::string_view variant() const final { return variant_; }
  void bind_thread() final { pool_.bind(); }
  Buffer allocate(size_t bytes) final;
  void set_rope(const Rotations& rotations) final { rope_ = rotations; }
  void reserve(const StepBounds& bounds) final;
  void latent_write(Rows q, Rows kv_a, const Weight& norm, float eps, const LatentShape& shape,
                    std::span<const SequenceRows> sequences, const KvLayer& kv) final;
  void latent_attention(Rows q, const LatentProjections& projections, const LatentShape& shape,
                        std::span<const SequenceRows> sequences, const KvLayer& kv, Rows out) override;
  void experts(Rows h, const ExpertSet& experts, const model::Routing& routing, const RoutingTrace& trace,
               Rows shared, Rows out) final;
  /// Of each part's rows its expert's gated product; h and out hold the parts' rows.
  virtual void gate_experts(Rows h, const ExpertSet& experts, std::span<const ExpertRows> parts, Rows out);
  /// The same with the product that follows.
  virtual void project_experts(Rows gated, const ExpertSet& experts, std::span<const ExpertRows> parts,
                               Rows out);
  void sample(Rows logits, std::span<const SampleRow> rows, std::span<SampledToken> out) final;
  void read(Rows from, std::span<float> to) final;
  void write(std::span<const float> from, Rows to) final;
  void wait() final {}

 protected:
  /// Of each thread, in the operations that are not here.
  virtual size_t scratch_bytes(const StepBounds& bounds) const = 0;
  virtual void each_room(const StepBounds& bounds, TakeRoom take) = 0;

  ThreadPool pool_;
  ThreadScratch scratch_;
  Rotations rope_;

 private:
  const std::string variant_;
  ExpertRunner experts_;
};

/// Of each thread, in CpuBackend's own operations.
size_t shared_thread_bytes(const StepBounds& bounds);

/// What CpuBackend::reserve takes: `bytes` are a backend's own of each thread, OwnRooms its own rooms.
template <class OwnRooms>
uint64_t scratch_bytes_of(int threads, size_t bytes, const StepBounds& bounds) {
  CountRoom shared;
  OwnRooms().each(bounds, shared);
  ExpertRooms().each(bounds, shared);
  return shared.bytes + static_cast<uint64_t>(threads) * std::max(bytes, shared_thread_bytes(bounds));
}

}  // namespace convoy::gpu
