#pragma once
// StepCost: what a step costs a stage, as a + b * rows, and what that makes worth while: how many
// micro-batches, how large chunks of prompts. StepCostMeter fits it to the steps that a stage ran; its thread
// owns it. Pure, without a clock.

#include <cstddef>
#include <cstdint>
#include <optional>

namespace convoy::actors {

/// Microseconds of one stage. Zeros: not measured yet.
struct StepCost {
  float fixed_us = 0;    // of a step, however many rows it has: reading the weights
  float per_row_us = 0;  // of each row

  bool measured() const { return fixed_us + per_row_us > 0; }
  float of(size_t rows) const { return fixed_us + per_row_us * static_cast<float>(rows); }
};

/// Into how many micro-batches so many decodes are dealt over so many stages: as many as there are stages to
/// fill and some to spare, or one. With P micro-batches each stage is busy all the time, and a round of all
/// decodes takes P * (a + b * n / P); with one only one stage is ever busy and a round takes P * (a + b * n).
/// So splitting gains (a + b * n) / (a + b * n / P): nothing where reading the weights is all that a step
/// costs, and P times the work then. Below gain_min it is not worth that. Before anything was measured:
/// split.
///
/// With exactly P a stage idles whenever the one micro-batch that comes next is late. With more to spare
/// another one is there; but each reads the weights once more in a round, a microseconds, and all together
/// may cost no more than the waiting did (docs/decisions/0027).
inline constexpr float split_gain_min = 1.1f;
/// Where a stage that idles leaves what it computes on to nobody: splitting then costs nothing.
inline constexpr float split_gain_min_apart = 1;
/// What waiting for late ones takes of a round of P micro-batches at least: by simulation 6 to 14 %, where
/// the times of steps vary by a tenth.
inline constexpr float late_share = 0.06f;
size_t micro_batches(size_t decodes, size_t stages, const StepCost& cost, float gain_min = split_gain_min);
size_t micro_batches_max(size_t stages);

/// How many rows a step has of prompts if nothing else is to be done, of which so many tokens are not
/// computed yet. k chunks take (k + P - 1) * (a + b * tokens / k) to pass P stages: in few large ones stages
/// wait for the first and behind the last, many small ones pay a often.
size_t chunk_rows(uint64_t tokens, size_t stages, const StepCost& cost);
/// Over how many steps they are dealt beside decodes. A step that is longer than others makes stages wait, in
/// front of it and behind; in one stage it makes nobody wait.
size_t steps_to_read_in(size_t stages);

/// Least squares over the steps seen, older ones fading.
class StepCostMeter {
 public:
  void add(size_t rows, double us);
  StepCost cost() const;

 private:
  std::optional<double> per_row_us() const;

  static constexpr double fade = 0.99;  // of what older steps weigh: the last hundred count
  double weight_ = 0, rows_ = 0, us_ = 0, rows_rows_ = 0, rows_us_ = 0;  // sums
  double per_row_us_ = 0;  // by the newest steps that differed in size
};

}  // namespace convoy::actors
