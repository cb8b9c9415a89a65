#pragma once
// Arithmetic in float32 that both CPU backends share. Each result is one sum in one order that only its
// length decides, so rows, threads and chunks cannot show.

#include <cstdint>
#include <span>
#include <vector>

#include "gpu/backend.hpp"
#include "gpu/cpu/thread_pool.hpp"

namespace convoy::gpu {

inline float* row_of(Rows rows, int64_t r) { return static_cast<float*>(rows.data) + r * rows.width; }

/// a · b
float dot(const float* a, const float* b, int64_t n);
/// sum += factor · x
void add_scaled(float factor, const float* x, int64_t n, float* sum);
/// h = x / sqrt(mean(x²) + eps) · w; h may be x.
void rms_norm(const float* x, const float* w, int64_t n, float eps, float* h);
/// Values become e^(value − largest); returns their sum.
float exponentials(std::span<float> values);

/// Reads rows of a weight as float32.
class WeightRows {
 public:
  explicit WeightRows(const Weight& weight);
  /// Valid until the next call.
  const float* row(int64_t r) {
    read(r, values_.data());
    return values_.data();
  }
  void read(int64_t r, float* to) const {
    model::dequantize_row(tensor_, r, {to, static_cast<size_t>(tensor_.columns())});
  }

 private:
  model::Tensor tensor_;
  std::vector<float> values_;
};

/// out[r][o] = h[r] · weight[o] (+ bias[o])
void multiply(ThreadPool& pool, Rows h, const Weight& weight, const Weight* bias, Rows out);

/// out = silu(h · gateᵀ) ⊙ (h · upᵀ)
void gated_linear(ThreadPool& pool, Rows h, const Weight& gate, const Weight& up, Rows out);

/// A weight in place, without a copy: the mapping is read-only and never written.
Weight mapped_weight(const model::Tensor& tensor);
/// From the kernel as untouched pages if large, so a KV pool costs memory only where it is used. Aligned
/// to 64.
Buffer allocate_aligned(size_t bytes);

}  // namespace convoy::gpu
