#pragma once
// LocalPipeline: the stages of a model in this process, one engine after the other, with the activations
// between them serialised as on a link. Runs one sequence at a time, for tools that need no cluster; one
// thread calls it.

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "gpu/engine.hpp"
#include "model/checkpoint/checkpoint.hpp"

namespace convoy::cli {

/// Which experts the rows of a step went to.
struct StepRouting {
  std::vector<int32_t> experts;  // [layers with experts, rows, of_row], ascending in each row
  size_t rows = 0, of_row = 0;   // of_row: experts of a row; 0: the model has none

  /// How many rows went to another expert in some layer.
  size_t differing_rows(const StepRouting& other) const;
};

class LocalPipeline {
 public:
  /// split: the first layer of every stage but the first, ascending; empty: one stage. tokens_max: of a
  /// sequence. kv_type: of cached keys and values; else the device's choice. Throws InputError.
  LocalPipeline(std::shared_ptr<const model::Checkpoint> checkpoint, const gpu::DeviceFactory& device,
                std::span<const int64_t> split, int64_t tokens_max,
                std::optional<model::DType> kv_type = std::nullopt);

  /// Begins a new sequence of up to `tokens` tokens.
  void start(size_t prompt_tokens, size_t tokens);

  /// Continues the sequence by one step of at most rows_per_step tokens; calls use(position, logits [vocab])
  /// for each of their positions from `wanted` on. Throws CheckFailed if one of those logits is not finite.
  using UseLogits = std::function<void(size_t position, std::span<const float> logits)>;
  void feed(std::span<const int32_t> tokens, size_t wanted, const UseLogits& use);

  /// Of the latest step.
  const StepRouting& routing() const { return routing_; }
  /// The next step's rows go there; as many have to come.
  void replay(const StepRouting& routing) { replayed_ = routing.experts; }

  static constexpr size_t rows_per_step = 256;
  /// The parts of these tokens that are a step each.
  static std::vector<std::span<const int32_t>> steps_of(std::span<const int32_t> tokens);

 private:
  struct Stage {
    gpu::Engine engine;
    size_t layers_with_experts = 0;
  };
  gpu::StepOutput run_stage(Stage& stage, const gpu::StepPlan& plan, std::span<const float> input);
  std::span<const float> run(const gpu::StepPlan& plan);

  std::vector<std::unique_ptr<Stage>> stages_;
  size_t vocab_;
  StepRouting routing_;
  std::vector<int32_t> replayed_;  // in the next step; empty: its rows choose
  gpu::StepPlan next_;             // what start leaves for the first step of the sequence
  size_t position_ = 0;
};

}  // namespace convoy::cli
