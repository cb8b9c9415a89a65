#pragma once
// What tests of single operations share: rows in a backend's memory, and plain arithmetic to hold them
// against.

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <vector>

#include "test/gpu/tiny_model.hpp"

namespace convoy::gpu::test {

/// Rows in a backend's memory.
struct DeviceRows {
  DeviceRows(Backend& b, int64_t rows, int64_t width, const std::vector<float>& values = {})
      : backend(b),
        memory(b.allocate(static_cast<size_t>(rows * width) * sizeof(float))),
        view{memory.get(), rows, width} {
    if (!values.empty()) backend.write(values, view);
  }
  std::vector<float> read() {
    std::vector<float> out(static_cast<size_t>(view.rows * view.width));
    backend.read(view, out);
    return out;
  }
  Backend& backend;
  Buffer memory;
  Rows view;
};

inline std::vector<float> widened(const model::Tensor& tensor) {
  std::vector<float> out;
  std::vector<float> row(static_cast<size_t>(tensor.columns()));
  for (int64_t r = 0; r < tensor.rows(); r++) {
    model::dequantize_row(tensor, r, row);
    out.insert(out.end(), row.begin(), row.end());
  }
  return out;
}

/// a: [rows, n], b: [out, n] → [rows, out]
inline std::vector<double> product(const std::vector<float>& a, const std::vector<float>& b, size_t n) {
  std::vector<double> out;
  for (size_t r = 0; r < a.size() / n; r++)
    for (size_t o = 0; o < b.size() / n; o++) {
      double sum = 0;
      for (size_t i = 0; i < n; i++) sum += double{a[r * n + i]} * b[o * n + i];
      out.push_back(sum);
    }
  return out;
}

/// ‖own − expected‖/‖expected‖
inline double error_of(const std::vector<float>& own, const std::vector<double>& expected) {
  BOOST_REQUIRE(own.size() == expected.size());
  double difference = 0, norm = 0;
  for (size_t i = 0; i < own.size(); i++) {
    difference += (own[i] - expected[i]) * (own[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  return std::sqrt(difference / norm);
}

inline constexpr double float_tolerance = 2e-6;
// The fast kernels round activations to int8 where the weight is quantised: 1/254 of the largest of 32
// values.
inline constexpr double int8_tolerance = 1e-2;

inline double tolerance(const BackendChoice& choice, model::DType type) {
  const bool quantised = model::info(type).block_values > 1;
  return choice.kernels == Kernels::fast && quantised ? int8_tolerance : float_tolerance;
}

inline constexpr model::DType weight_types[] = {
    model::DType::f32,  model::DType::f16,  model::DType::bf16, model::DType::f8_e4m3,
    model::DType::q8_0, model::DType::q4_0, model::DType::q4_1, model::DType::iq4_nl,
    model::DType::q4_k, model::DType::q5_k, model::DType::q6_k};

/// Columns of a weight of this type: `wanted`, or one block.
inline int64_t columns_of(model::DType type, int64_t wanted) {
  return std::max<int64_t>(wanted, model::info(type).block_values);
}

/// Runs the body for every backend, with its name in every failure.
template <class F>
void for_each_backend(F body) {
  for (const BackendChoice& choice : backends()) BOOST_TEST_CONTEXT(choice.name()) {
      body(choice, *choice.make());
    }
}

}  // namespace convoy::gpu::test
