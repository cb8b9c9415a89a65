#pragma once
// Latent attention with the fast kernels, of sequences that bring few rows: their queries go into the
// latents' space, all heads are compared with the cached entries together, and what they attend to comes out
// of it. The projections are computed on in their own type. FastBackend calls it.

#include <algorithm>
#include <cstdint>
#include <span>

#include "gpu/backend.hpp"
#include "gpu/cpu/kernels.hpp"
#include "gpu/cpu/memory.hpp"
#include "gpu/cpu/thread_pool.hpp"

namespace convoy::gpu {

/// A row that is compared with the first `keys` entries of its sequence.
struct LatentRow {
  int64_t row = 0, keys = 0;
  const uint32_t* blocks = nullptr;
};

/// Rows whose projections are computed together: a larger batch reads them again, from the second cache.
inline constexpr int64_t latent_rows_together = 64;

struct LatentRooms {
  Room<LatentRow> rows;         // of the step
  Room<float> queries, values;  // in the latents' space: [heads, rows, latent + rope], [heads, rows, latent]

  void each(const StepBounds& b, auto&& use) {
    const LatentShape& s = b.latent;
    if (s.heads == 0) return;
    const int64_t of_heads = s.heads * std::min(b.rows, latent_rows_together);
    use(rows, b.rows), use(queries, of_heads * (s.latent + s.rope)), use(values, of_heads * s.latent);
  }
};

/// Of each thread.
size_t fast_latent_thread_bytes(const StepBounds& bounds);

/// Backend::latent_attention.
void fast_latent_attention(const KernelTable& kernels, ThreadPool& pool, ThreadScratch& scratch,
                           LatentRooms& rooms, Rows q, const LatentProjections& projections,
                           const LatentShape& shape, std::span<const SequenceRows> sequences,
                           const KvLayer& kv, Rows out);

}  // namespace convoy::gpu
