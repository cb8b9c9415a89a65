#include "gpu/cpu/cpu_backend.hpp"

#include <algorithm>
#include <cassert>

#include "gpu/cpu/fast.hpp"
#include "gpu/cpu/float_math.hpp"
#include "gpu/cpu/reference.hpp"

namespace convoy::gpu {

Buffer CpuBackend::allocate(size_t bytes) { return allocate_aligned(bytes); }

size_t shared_thread_bytes(const StepBounds& bounds) {
  return std::max(latent_scratch_bytes(bounds), sample_scratch_bytes(bounds.vocab));
}

void CpuBackend::reserve(const StepBounds& bounds) {
  scratch_.reserve(std::max(scratch_bytes(bounds), shared_thread_bytes(bounds)));
  each_room(bounds, TakeRoom());
  experts_.reserve(bounds);
}

void CpuBackend::latent_write(Rows q, Rows kv_a, const Weight& norm, float eps, const LatentShape& shape,
                              std::span<const SequenceRows> sequences, const KvLayer& kv) {
  gpu::latent_write(pool_, q, kv_a, norm, eps, shape, sequences, kv, rope_);
}

void CpuBackend::latent_attention(Rows q, const LatentProjections& projections, const LatentShape& shape,
                                  std::span<const SequenceRows> sequences, const KvLayer& kv, Rows out) {
  gpu::latent_attention(pool_, scratch_, q, projections, shape, sequences, kv, out);
}

void CpuBackend::experts(Rows h, const ExpertSet& experts, const model::Routing& routing,
                         const RoutingTrace& trace, Rows shared, Rows out) {
  experts_.run(*this, h, experts, routing, trace, shared, out);
}

void CpuBackend::gate_experts(Rows h, const ExpertSet& experts, std::span<const ExpertRows> parts, Rows out) {
  for (const ExpertRows& part : parts) {
    const auto expert = static_cast<size_t>(part.expert);
    gated_linear(rows_from(h, part.first, part.rows), {&experts.gate[expert], &experts.up[expert], nullptr,
                                                       nullptr, rows_from(out, part.first, part.rows)});
  }
}

void CpuBackend::project_experts(Rows gated, const ExpertSet& experts, std::span<const ExpertRows> parts,
                                 Rows out) {
  for (const ExpertRows& part : parts) {
    const Projection down[] = {
        {&experts.down[static_cast<size_t>(part.expert)], nullptr, rows_from(out, part.first, part.rows)}};
    linear(rows_from(gated, part.first, part.rows), down);
  }
}

void CpuBackend::sample(Rows logits, std::span<const SampleRow> rows, std::span<SampledToken> out) {
  assert(static_cast<int64_t>(rows.size()) == logits.rows && rows.size() == out.size());
  scratch_.reserve(sample_scratch_bytes(logits.width));
  pool_.parallel_for(logits.rows, [&](int64_t r, int thread) {
    out[r] =
        sample_token({row_of(logits, r), static_cast<size_t>(logits.width)}, rows[r], scratch_.of(thread));
  });
}

void CpuBackend::read(Rows from, std::span<float> to) {
  assert(static_cast<int64_t>(to.size()) == from.rows * from.width);
  std::copy_n(row_of(from, 0), to.size(), to.data());
}

void CpuBackend::write(std::span<const float> from, Rows to) {
  assert(static_cast<int64_t>(from.size()) == to.rows * to.width);
  std::copy_n(from.data(), from.size(), row_of(to, 0));
}

std::unique_ptr<Backend> make_cpu_backend(Kernels kernels, int threads) {
  assert(threads >= 1);
  if (kernels == Kernels::reference) return make_reference_backend(threads);
  return make_fast_backend(threads);
}

}  // namespace convoy::gpu
