#pragma once
// TimedBackend: a backend that adds up what each operation of another takes of the processor, for `--phases`.
// Called by one thread, as every backend.

#include <array>
#include <utility>

#include "bench/seconds.hpp"
#include "gpu/backend.hpp"

namespace convoy::bench {

class TimedBackend final : public gpu::Backend {
 public:
  enum Phase { embedding, norms, products, gated, rotation, attention_, experts_, head_, sampling, phases };
  static constexpr std::array<const char*, phases> names{"embedding",      "norms",    "products",
                                                         "gated_products", "rotation", "attention",
                                                         "experts",        "head",     "sampling"};

  explicit TimedBackend(std::unique_ptr<gpu::Backend> backend) : backend_(std::move(backend)) {}

  /// Seconds of processor time in each phase since the last call, of all threads.
  std::array<double, phases> take() { return std::exchange(seconds_, {}); }

  std::string_view variant() const override { return backend_->variant(); }
  void bind_thread() override { backend_->bind_thread(); }
  bool copies_weights() const override { return backend_->copies_weights(); }
  model::DType kv_type() const override { return backend_->kv_type(); }
  void check_heads(int64_t head_dim) const override { backend_->check_heads(head_dim); }
  gpu::Buffer allocate(size_t bytes) override { return backend_->allocate(bytes); }
  gpu::Weight adopt(const model::Tensor& tensor) override { return backend_->adopt(tensor); }
  void set_rope(const gpu::Rotations& rotations) override { backend_->set_rope(rotations); }
  void reserve(const gpu::StepBounds& bounds) override { backend_->reserve(bounds); }
  uint64_t reserved_bytes(const gpu::StepBounds& bounds) const override {
    return backend_->reserved_bytes(bounds);
  }

  void embed(const gpu::Weight& table, std::span<const int32_t> ids, gpu::Rows x) override {
    time(embedding, [&] { backend_->embed(table, ids, x); });
  }
  void add_norm(gpu::Rows x, gpu::Rows delta, const gpu::Weight& w, float eps, gpu::Rows h) override {
    time(norms, [&] { backend_->add_norm(x, delta, w, eps, h); });
  }
  void linear(gpu::Rows h, std::span<const gpu::Projection> projections) override {
    time(products, [&] { backend_->linear(h, projections); });
  }
  void gated_linear(gpu::Rows h, const gpu::GatedProjection& projection) override {
    time(gated, [&] { backend_->gated_linear(h, projection); });
  }
  void rope_write(gpu::Rows q, gpu::Rows k, gpu::Rows v, const gpu::HeadNorms& head_norms,
                  const gpu::AttentionShape& shape, std::span<const gpu::SequenceRows> sequences,
                  const gpu::KvLayer& kv) override {
    time(rotation, [&] { backend_->rope_write(q, k, v, head_norms, shape, sequences, kv); });
  }
  void attention(gpu::Rows q, const gpu::AttentionShape& shape, std::span<const gpu::SequenceRows> sequences,
                 const gpu::KvLayer& kv, gpu::Rows out) override {
    time(attention_, [&] { backend_->attention(q, shape, sequences, kv, out); });
  }
  void latent_write(gpu::Rows q, gpu::Rows kv_a, const gpu::Weight& norm, float eps,
                    const gpu::LatentShape& shape, std::span<const gpu::SequenceRows> sequences,
                    const gpu::KvLayer& kv) override {
    time(rotation, [&] { backend_->latent_write(q, kv_a, norm, eps, shape, sequences, kv); });
  }
  void latent_attention(gpu::Rows q, const gpu::LatentProjections& projections, const gpu::LatentShape& shape,
                        std::span<const gpu::SequenceRows> sequences, const gpu::KvLayer& kv,
                        gpu::Rows out) override {
    time(attention_, [&] { backend_->latent_attention(q, projections, shape, sequences, kv, out); });
  }
  void experts(gpu::Rows h, const gpu::ExpertSet& experts, const model::Routing& routing,
               const gpu::RoutingTrace& trace, gpu::Rows shared, gpu::Rows out) override {
    time(experts_, [&] { backend_->experts(h, experts, routing, trace, shared, out); });
  }
  void head(gpu::Rows x, gpu::Rows delta, const gpu::Weight& norm, float eps, const gpu::Weight& head,
            std::span<const int32_t> rows, gpu::Rows logits) override {
    time(head_, [&] { backend_->head(x, delta, norm, eps, head, rows, logits); });
  }
  void sample(gpu::Rows logits, std::span<const gpu::SampleRow> rows,
              std::span<gpu::SampledToken> out) override {
    time(sampling, [&] { backend_->sample(logits, rows, out); });
  }
  void read(gpu::Rows from, std::span<float> to) override { backend_->read(from, to); }
  void write(std::span<const float> from, gpu::Rows to) override { backend_->write(from, to); }
  void wait() override { backend_->wait(); }

 private:
  template <class Work>
  void time(Phase phase, const Work& work) {
    seconds_[phase] += time_of(work).cpu;
  }

  std::unique_ptr<gpu::Backend> backend_;
  std::array<double, phases> seconds_{};
};

}  // namespace convoy::bench
