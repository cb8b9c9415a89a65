#pragma once
// A matrix as it lies in memory, for whoever has checked its shape already: what kernels read weights from.

#include <cstddef>
#include <cstdint>

#include "model/tensor.hpp"

namespace convoy::model {

struct MatrixBytes {
  DType type = DType::f32;
  int64_t columns = 0;
  const std::byte* rows = nullptr;
  const std::byte* scales = nullptr;  // as Tensor::scales; nullptr: all 1
};

/// As of a tensor: row `row` widened to float32, `columns` values. Allocates nothing.
void dequantize_row(const MatrixBytes& matrix, int64_t row, float* out);

}  // namespace convoy::model
