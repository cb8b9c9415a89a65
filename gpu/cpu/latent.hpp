#pragma once
// Multi-head latent attention on the CPU (arXiv 2405.04434, section 2.1), in float32. The cache has one entry
// of latent + rope values for each token. The fast backend has kernels of its own for few rows
// (gpu/cpu/fast_latent.hpp).

#include "gpu/backend.hpp"
#include "gpu/cpu/memory.hpp"
#include "gpu/cpu/rotate.hpp"
#include "gpu/cpu/thread_pool.hpp"

namespace convoy::gpu {

void latent_write(ThreadPool& pool, Rows q, Rows kv_a, const Weight& norm, float eps,
                  const LatentShape& shape, std::span<const SequenceRows> sequences, const KvLayer& kv,
                  const Rotations& rotations);

/// Scratch of each thread for the next one.
size_t latent_scratch_bytes(const StepBounds& bounds);
void latent_attention(ThreadPool& pool, ThreadScratch& scratch, Rows q, const LatentProjections& projections,
                      const LatentShape& shape, std::span<const SequenceRows> sequences, const KvLayer& kv,
                      Rows out);

}  // namespace convoy::gpu
