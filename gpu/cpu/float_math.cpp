#include "gpu/cpu/float_math.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstdlib>

#include "model/out_of_memory.hpp"

// One function compiled for several instruction sets, chosen when the program starts. Nothing is fused (see
// CMakeLists.txt) and lanes are added in one order, so all of them give the same bits. Sanitizers run before
// the choice can be made.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define CONVOY_VECTOR_CLONES
#else
#define CONVOY_VECTOR_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#endif

namespace convoy::gpu {

/// Sixteen partial sums, added up in one order that only n decides. Sixteen, so that the compiler can use
/// vectors.
CONVOY_VECTOR_CLONES
float dot(const float* a, const float* b, int64_t n) {
  constexpr int64_t lanes = 16;
  float sums[lanes] = {};
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes)
    for (int64_t j = 0; j < lanes; j++) sums[j] += a[i + j] * b[i + j];
  for (int64_t j = 0; i + j < n; j++) sums[j] += a[i + j] * b[i + j];
  for (int64_t half = lanes / 2; half > 0; half /= 2)
    for (int64_t j = 0; j < half; j++) sums[j] += sums[j + half];
  return sums[0];
}

CONVOY_VECTOR_CLONES
void add_scaled(float factor, const float* x, int64_t n, float* sum) {
  for (int64_t i = 0; i < n; i++) sum[i] += factor * x[i];
}

void rms_norm(const float* x, const float* w, int64_t n, float eps, float* h) {
  const float scale = 1.0f / std::sqrt(dot(x, x, n) / static_cast<float>(n) + eps);
  for (int64_t i = 0; i < n; i++) h[i] = x[i] * scale * w[i];
}

float exponentials(std::span<float> values) {
  const float largest = *std::max_element(values.begin(), values.end());
  float sum = 0;
  for (float& v : values) sum += v = std::exp(v - largest);
  return sum;
}

WeightRows::WeightRows(const Weight& weight) : values_(static_cast<size_t>(weight.columns)) {
  tensor_.type = weight.type;
  tensor_.shape = {weight.rows, weight.columns};
  tensor_.bytes = {static_cast<const std::byte*>(weight.data()),
                   static_cast<size_t>(weight.rows) * tensor_.row_bytes()};
  if (!weight.scales) return;
  tensor_.scales = {static_cast<const std::byte*>(weight.scales.get()),
                    model::scale_count(weight.type, weight.rows, weight.columns) * sizeof(float)};
}

void multiply(ThreadPool& pool, Rows h, const Weight& weight, const Weight* bias, Rows out) {
  assert(weight.columns == h.width && weight.rows == out.width && h.rows == out.rows);
  std::vector<float> biases(static_cast<size_t>(weight.rows), 0.0f);
  if (bias) {
    assert(bias->columns == weight.rows);
    WeightRows(*bias).read(0, biases.data());
  }
  constexpr int64_t outputs_per_chunk = 32;
  pool.parallel_for((weight.rows + outputs_per_chunk - 1) / outputs_per_chunk, [&](int64_t chunk, int) {
    WeightRows rows(weight);
    const int64_t end = std::min(weight.rows, (chunk + 1) * outputs_per_chunk);
    for (int64_t o = chunk * outputs_per_chunk; o < end; o++) {
      const float* w = rows.row(o);
      for (int64_t r = 0; r < h.rows; r++) row_of(out, r)[o] = dot(row_of(h, r), w, h.width) + biases[o];
    }
  });
}

void gated_linear(ThreadPool& pool, Rows h, const Weight& gate, const Weight& up, Rows out) {
  std::vector<float> up_values(static_cast<size_t>(out.rows * out.width));
  multiply(pool, h, gate, nullptr, out);
  multiply(pool, h, up, nullptr, {up_values.data(), out.rows, out.width});
  float* gated = row_of(out, 0);
  for (size_t i = 0; i < up_values.size(); i++)
    gated[i] = gated[i] / (1.0f + std::exp(-gated[i])) * up_values[i];
}

Weight mapped_weight(const model::Tensor& tensor) {
  const auto in_place = [](std::span<const std::byte> bytes, std::shared_ptr<const model::Mapping> owner) {
    return Buffer(std::const_pointer_cast<model::Mapping>(std::move(owner)),
                  const_cast<std::byte*>(bytes.data()));
  };
  Weight weight{in_place(tensor.bytes, tensor.owner), tensor.type, tensor.rows(), tensor.columns()};
  if (!tensor.scales.empty()) weight.scales = in_place(tensor.scales, tensor.scales_owner);
  return weight;
}

Buffer allocate_aligned(size_t bytes) {
  constexpr size_t alignment = 64;
  void* memory =
      std::aligned_alloc(alignment, (std::max<size_t>(bytes, 1) + alignment - 1) / alignment * alignment);
  if (!memory) throw OutOfMemory(bytes);
  return Buffer(memory, std::free);
}

}  // namespace convoy::gpu
