#pragma once
// Rows of a weight as kernels read them (matrix.hpp, "units"), made on the card of rows as they lie in a
// file.

#include <cuda_runtime.h>

#include "gpu/cuda/matrix.hpp"

namespace convoy::cuda {

/// Arranges the rows of `experts` matrices of a type that is_arranged() in their place, where each row's
/// bytes are the file's, behind them zeros up to the pitch. Adds to `not_numbers`, on the card, how many FP8
/// values are NaN. Throws Failure for rows that do not fit the shared memory of a block.
void arrange(const Matrix& weight, int experts, uint32_t* not_numbers, cudaStream_t stream);

}  // namespace convoy::cuda
