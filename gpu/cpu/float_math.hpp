#pragma once
// Arithmetic in float32 that both CPU backends share. Each result is one sum in one order that only its
// length decides, so rows, threads and chunks cannot show.

#include <cstdint>
#include <span>

#include "gpu/backend.hpp"
#include "gpu/cpu/memory.hpp"
#include "gpu/cpu/thread_pool.hpp"

namespace convoy::gpu {

inline float* row_of(Rows rows, int64_t r) { return static_cast<float*>(rows.data) + r * rows.width; }
/// `count` of the rows.
inline Rows rows_from(Rows rows, int64_t first, int64_t count) {
  return {row_of(rows, first), count, rows.width};
}

/// a · b
float dot(const float* a, const float* b, int64_t n);
/// sum += factor · x
void add_scaled(float factor, const float* x, int64_t n, float* sum);
/// h = x / sqrt(mean(x²) + eps) · w; h may be x.
void rms_norm(const float* x, const float* w, int64_t n, float eps, float* h);
/// Values become e^(value − largest); returns their sum.
float exponentials(std::span<float> values);

/// Row r of a weight as float32.
void read_row(const Weight& weight, int64_t r, float* to);

/// Scratch of each thread for the next two, with rows of so many columns.
inline size_t multiply_scratch_bytes(int64_t columns) {
  return static_cast<size_t>(2 * columns) * sizeof(float);
}
/// out[r][o] = h[r] · weight[o] (+ bias[o])
void multiply(ThreadPool& pool, ThreadScratch& scratch, Rows h, const Weight& weight, const Weight* bias,
              Rows out);
/// Backend::gated_linear.
void gated_multiply(ThreadPool& pool, ThreadScratch& scratch, Rows h, const GatedProjection& projection);

/// The values of a vector that adopt_weight took.
const float* vector_values(const Weight& weight);
/// A matrix in place, without a copy: the mapping is read-only and never written. A vector (norms and biases
/// are small, and read whole for each row) as a float32 copy.
Weight adopt_weight(const model::Tensor& tensor);

}  // namespace convoy::gpu
