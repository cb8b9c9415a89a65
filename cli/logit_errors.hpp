#pragma once
// How far rows of logits are from a reference's, and how far they may be: for `convoy verify` and `convoy
// quantize`.

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace convoy::cli {

size_t arg_max(std::span<const float> values);
double log_sum_exp(std::span<const float> logits);

/// What errors may be at most; those without a value may be anything.
struct ErrorLimits {
  std::optional<double> max_rel, median_rel, mean_kl;
  /// With the other's where there is none here.
  ErrorLimits or_else(const ErrorLimits& other) const;
};

/// Over positions. A relative error is ‖own − reference‖/‖reference‖ of one.
class LogitErrors {
 public:
  void add(std::span<const float> reference, std::span<const float> own);
  void add(const LogitErrors& other);

  size_t positions() const { return rel_.size(); }
  double max_rel() const;
  double median_rel() const;
  double mean_rel() const;
  /// KL(reference ‖ own) of the distributions behind the logits, in nats.
  double mean_kl() const;
  /// Largest |own − reference| of a logit.
  float largest_difference() const { return difference_; }

  /// What is above its limit, one sentence each.
  std::vector<std::string> above(const ErrorLimits& limits) const;

 private:
  std::vector<double> rel_;  // of each position
  double kl_ = 0;
  float difference_ = 0;
};

}  // namespace convoy::cli
