#pragma once
// From rows of logits to tokens on the device: the same tokens as gpu/sampler.cpp for the same logits, since
// the distribution is made of integers (gpu/sampling_mass.hpp).

#include "gpu/cuda/elementwise.hpp"

namespace convoy::cuda {

struct Sample {
  const float* logits = nullptr;  // [rows, vocab], of the step's sampled rows from rows.first on
  int32_t vocab = 0;
  uint32_t* counts = nullptr;  // [rows, vocab]: room to count tokens in
  Sampled* results = nullptr;  // of all sampled rows
  RowRange rows;
};
void sample_rows(const Sample& sample, const RowTables& tables, cudaStream_t stream);

}  // namespace convoy::cuda
