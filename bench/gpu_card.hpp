#pragma once
// A model with random weights on a card, whose decodes are taken apart. Its cache is empty: what kernels take
// does not depend on values, except where rows choose experts, which is their tokens' doing.

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bench/gpu_chain.hpp"
#include "model/checkpoint/checkpoint.hpp"

namespace convoy::bench {

/// Launches that belong together, of a layer or (−1) of none. Names are those of gpu/cuda/forward.cu.
struct Group {
  std::string name;
  int64_t layer = -1;
  Chain launches;
};

class Card {
 public:
  /// sequences: at most, each with `context` tokens in its cache before a step.
  Card(int ordinal, const model::Checkpoint& checkpoint, uint32_t sequences, int64_t context);
  ~Card();
  Card(const Card&) = delete;
  Card& operator=(const Card&) = delete;

  /// Runs a decode of so many sequences and gives its launches, valid as long as this.
  std::vector<Group> step(uint32_t rows);
  cudaStream_t stream() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace convoy::bench
