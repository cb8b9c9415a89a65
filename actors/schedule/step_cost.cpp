#include "actors/schedule/step_cost.hpp"

#include <algorithm>

namespace convoy::actors {

size_t micro_batches(size_t decodes, size_t stages, const StepCost& cost, float gain_min) {
  const size_t most = std::max<size_t>(1, std::min(decodes, stages));
  if (most == 1 || !cost.measured()) return most;
  const size_t each = (decodes + most - 1) / most;
  return cost.of(decodes) >= gain_min * cost.of(each) ? most : 1;
}

void StepCostMeter::add(size_t rows, double us) {
  const double x = static_cast<double>(rows);
  weight_ = fade * weight_ + 1;
  rows_ = fade * rows_ + x;
  us_ = fade * us_ + us;
  rows_rows_ = fade * rows_rows_ + x * x;
  rows_us_ = fade * rows_us_ + x * us;
}

StepCost StepCostMeter::cost() const {
  if (weight_ == 0) return {};
  const double rows = rows_ / weight_, us = us_ / weight_;
  const double variance = rows_rows_ / weight_ - rows * rows, covariance = rows_us_ / weight_ - rows * us;
  // Steps of one size say nothing of what a row adds, and noise never makes a row cheaper than nothing.
  const double per_row =
      variance > 0.01 * rows * rows ? std::clamp(covariance / variance, 0.0, us / rows) : 0;
  return {static_cast<float>(us - per_row * rows), static_cast<float>(per_row)};
}

}  // namespace convoy::actors
