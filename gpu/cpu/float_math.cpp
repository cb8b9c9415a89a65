#include "gpu/cpu/float_math.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>

#include "gpu/cpu/packed.hpp"
#include "gpu/cpu/vector_clones.hpp"
#include "model/matrix_bytes.hpp"

// AddressSanitizer is shown these loops' ranges as wholes: looking at each value took most of what its tests
// take.
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define CONVOY_SHOWN_AS_RANGES __attribute__((no_sanitize("address,undefined")))
#else
#define CONVOY_SHOWN_AS_RANGES
#endif

namespace convoy::gpu {

namespace {

/// Nothing where nobody watches memory.
inline void assert_accessible([[maybe_unused]] const float* values, [[maybe_unused]] int64_t n) {
#if defined(__SANITIZE_ADDRESS__)
  assert(!__asan_region_is_poisoned(const_cast<float*>(values), static_cast<size_t>(n) * sizeof(float)));
#endif
}

}  // namespace

/// Sixteen partial sums, added up in one order that only n decides. Sixteen, so that the compiler can use
/// vectors.
CONVOY_VECTOR_CLONES CONVOY_SHOWN_AS_RANGES float dot(const float* a, const float* b, int64_t n) {
  assert_accessible(a, n), assert_accessible(b, n);
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

CONVOY_VECTOR_CLONES CONVOY_SHOWN_AS_RANGES void add_scaled(float factor, const float* x, int64_t n,
                                                            float* sum) {
  assert_accessible(x, n), assert_accessible(sum, n);
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

void read_row(const Weight& weight, int64_t r, float* to) {
  assert(r >= 0 && r < weight.rows);
  const auto* const bytes = static_cast<const std::byte*>(weight.data());
  if (!weight.packed)
    return model::dequantize_row(model::MatrixBytes{weight.type, weight.columns, bytes,
                                                    static_cast<const std::byte*>(weight.scales.get())},
                                 r, to);
  const model::DTypeInfo& type = model::info(weight.type);
  const int64_t blocks = weight.columns / type.block_values;
  std::byte stored[block_bytes_max];
  for (int64_t block = 0; block < blocks; block++, to += type.block_values) {
    unpack_block(weight.type, bytes, blocks * type.block_bytes, r, block, stored);
    model::dequantize_row(model::MatrixBytes{weight.type, type.block_values, stored, nullptr}, 0, to);
  }
}

namespace {

/// Calls use(output, its thread's scratch) for all outputs of a product.
template <class Use>
void for_outputs(ThreadPool& pool, ThreadScratch& scratch, int64_t outputs, int64_t columns, const Use& use) {
  constexpr int64_t outputs_per_chunk = 32;
  scratch.reserve(multiply_scratch_bytes(columns));
  pool.parallel_for((outputs + outputs_per_chunk - 1) / outputs_per_chunk, [&](int64_t chunk, int thread) {
    const int64_t end = std::min(outputs, (chunk + 1) * outputs_per_chunk);
    for (int64_t o = chunk * outputs_per_chunk; o < end; o++) use(o, scratch.floats_of(thread));
  });
}

}  // namespace

void multiply(ThreadPool& pool, ThreadScratch& scratch, Rows h, const Weight& weight, const Weight* bias,
              Rows out) {
  assert(weight.columns == h.width && weight.rows == out.width && h.rows == out.rows);
  assert(!bias || bias->columns == weight.rows);
  const float* const biases = bias ? vector_values(*bias) : nullptr;
  for_outputs(pool, scratch, weight.rows, h.width, [&](int64_t o, float* w) {
    read_row(weight, o, w);
    const float added = biases ? biases[o] : 0.0f;
    for (int64_t r = 0; r < h.rows; r++) row_of(out, r)[o] = dot(row_of(h, r), w, h.width) + added;
  });
}

void gated_multiply(ThreadPool& pool, ThreadScratch& scratch, Rows h, const GatedProjection& projection) {
  const Weight &gate = *projection.gate, &up = *projection.up;
  const Rows out = projection.out;
  const auto bias = [](const Weight* weight, int64_t o) { return weight ? vector_values(*weight)[o] : 0.0f; };
  assert(gate.columns == h.width && up.columns == h.width && h.rows == out.rows);
  assert(gate.rows == out.width && up.rows == out.width);
  for_outputs(pool, scratch, out.width, h.width, [&](int64_t o, float* w) {
    float* const w_up = w + h.width;
    read_row(gate, o, w), read_row(up, o, w_up);
    for (int64_t r = 0; r < h.rows; r++) {
      const float gated = dot(row_of(h, r), w, h.width) + bias(projection.gate_bias, o),
                  value = dot(row_of(h, r), w_up, h.width) + bias(projection.up_bias, o);
      row_of(out, r)[o] = gated / (1.0f + std::exp(-gated)) * value;
    }
  });
}

const float* vector_values(const Weight& weight) {
  assert(weight.type == model::DType::f32 && weight.rows == 1);
  return static_cast<const float*>(weight.data());
}

Weight adopt_weight(const model::Tensor& tensor) {
  if (tensor.rows() == 1) {
    Weight vector{allocate_aligned(static_cast<size_t>(tensor.columns()) * sizeof(float)), model::DType::f32,
                  1, tensor.columns()};
    model::dequantize_row(tensor, 0,
                          {static_cast<float*>(vector.memory.get()), static_cast<size_t>(vector.columns)});
    return vector;
  }
  const auto in_place = [](std::span<const std::byte> bytes, std::shared_ptr<const model::Mapping> owner) {
    return Buffer(std::const_pointer_cast<model::Mapping>(std::move(owner)),
                  const_cast<std::byte*>(bytes.data()));
  };
  Weight weight{in_place(tensor.bytes, tensor.owner), tensor.type, tensor.rows(), tensor.columns()};
  if (!tensor.scales.empty()) weight.scales = in_place(tensor.scales, tensor.scales_owner);
  return weight;
}

}  // namespace convoy::gpu
