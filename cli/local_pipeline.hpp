#pragma once
// LocalPipeline: the stages of a model in this process, one engine after the other, with the activations
// between them serialised as on a link. Runs one sequence at a time, for tools that need no cluster; one
// thread calls it.

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "gpu/engine.hpp"
#include "model/checkpoint/checkpoint.hpp"

namespace convoy::cli {

class LocalPipeline {
 public:
  /// split: the first layer of every stage but the first, ascending; empty: one stage. tokens_max: of a
  /// sequence. Throws InputError.
  LocalPipeline(std::shared_ptr<const model::Checkpoint> checkpoint, const gpu::DeviceFactory& device,
                std::span<const int64_t> split, int64_t tokens_max);

  /// Begins a new sequence of up to `tokens` tokens.
  void start(size_t prompt_tokens, size_t tokens);

  /// Continues the sequence, in chunks of rows_per_step; calls use(position, logits [vocab]) for each
  /// position of these tokens from `wanted` on. Throws CheckFailed if one of those logits is not finite.
  using UseLogits = std::function<void(size_t position, std::span<const float> logits)>;
  void feed(std::span<const int32_t> tokens, size_t wanted, const UseLogits& use);

  static constexpr size_t rows_per_step = 256;

 private:
  std::span<const float> run(const gpu::StepPlan& plan);

  std::vector<std::unique_ptr<gpu::Engine>> stages_;
  size_t vocab_;
  gpu::StepPlan next_;  // what start leaves for the first step of the sequence
  size_t position_ = 0;
};

}  // namespace convoy::cli
