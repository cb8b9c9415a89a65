#include "actors/schedule/step_cost.hpp"

#include <algorithm>
#include <cmath>

namespace convoy::actors {

size_t micro_batches(size_t decodes, size_t stages, const StepCost& cost, float gain_min) {
  const size_t most = std::max<size_t>(1, std::min(decodes, stages));
  if (most == 1 || !cost.measured()) return most;
  const float step_us = cost.of((decodes + most - 1) / most);
  if (cost.of(decodes) < gain_min * step_us) return 1;
  const size_t spare_max = std::min(decodes, micro_batches_max(stages)) - most;
  const float waiting_us = late_share * static_cast<float>(most) * step_us;
  if (cost.fixed_us * static_cast<float>(spare_max) <= waiting_us) return most + spare_max;
  return most + static_cast<size_t>(waiting_us / cost.fixed_us);
}

size_t micro_batches_max(size_t stages) { return stages == 1 ? 1 : stages + (stages + 1) / 2; }

size_t chunk_rows(uint64_t tokens, size_t stages, const StepCost& cost) {
  if (stages == 1 || cost.per_row_us <= 0) return tokens;
  const auto all = static_cast<double>(tokens);
  const double least =
      std::sqrt(cost.fixed_us / double{cost.per_row_us} * all / static_cast<double>(stages - 1));
  return static_cast<size_t>(std::min(least, all));
}

size_t steps_to_read_in(size_t stages) { return micro_batches_max(stages); }

void StepCostMeter::add(size_t rows, double us) {
  const double x = static_cast<double>(rows);
  weight_ = fade * weight_ + 1;
  rows_ = fade * rows_ + x;
  us_ = fade * us_ + us;
  rows_rows_ = fade * rows_rows_ + x * x;
  rows_us_ = fade * rows_us_ + x * us;
  per_row_us_ = per_row_us().value_or(per_row_us_);
}

/// Nothing if all steps were about as large: they do not say what a row adds. Noise never makes a row cheaper
/// than nothing.
std::optional<double> StepCostMeter::per_row_us() const {
  const double rows = rows_ / weight_, us = us_ / weight_;
  const double variance = rows_rows_ / weight_ - rows * rows, covariance = rows_us_ / weight_ - rows * us;
  if (variance <= 0.01 * rows * rows) return std::nullopt;
  return std::clamp(covariance / variance, 0.0, us / rows);
}

StepCost StepCostMeter::cost() const {
  if (weight_ == 0) return {};
  const double rows = rows_ / weight_, us = us_ / weight_;
  const double per_row = std::min(per_row_us_, us / rows);
  return {static_cast<float>(std::max(0.0, us - per_row * rows)), static_cast<float>(per_row)};
}

}  // namespace convoy::actors
