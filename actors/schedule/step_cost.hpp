#pragma once
// StepCost: what a step costs a stage, as a + b * rows, and how many micro-batches that makes worth while.
// StepCostMeter fits it to the steps that a stage ran; its thread owns it. Pure, without a clock.

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
/// fill, or one. With P micro-batches each stage is busy all the time, and a round of all decodes takes
/// P * (a + b * n / P); with one only one stage is ever busy and a round takes P * (a + b * n). So splitting
/// gains (a + b * n) / (a + b * n / P): nothing where reading the weights is all that a step costs, and P
/// times the work then. Below gain_min it is not worth that. Before anything was measured: split.
inline constexpr float split_gain_min = 1.1f;
/// Where a stage that idles leaves what it computes on to nobody: splitting then costs nothing.
inline constexpr float split_gain_min_apart = 1;
size_t micro_batches(size_t decodes, size_t stages, const StepCost& cost, float gain_min = split_gain_min);

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
