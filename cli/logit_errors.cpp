#include "cli/logit_errors.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>

namespace convoy::cli {
namespace {

double kl_divergence(std::span<const float> p, std::span<const float> q) {
  const double p_norm = log_sum_exp(p), q_norm = log_sum_exp(q);
  double kl = 0;
  for (size_t i = 0; i < p.size(); i++) kl += std::exp(p[i] - p_norm) * ((p[i] - p_norm) - (q[i] - q_norm));
  return kl;
}

}  // namespace

size_t arg_max(std::span<const float> values) {
  return static_cast<size_t>(std::max_element(values.begin(), values.end()) - values.begin());
}

double log_sum_exp(std::span<const float> logits) {
  const double largest = logits[arg_max(logits)];
  double sum = 0;
  for (float logit : logits) sum += std::exp(logit - largest);
  return largest + std::log(sum);
}

ErrorLimits ErrorLimits::or_else(const ErrorLimits& other) const {
  const auto first = [](const std::optional<double>& a, const std::optional<double>& b) { return a ? a : b; };
  return {first(max_rel, other.max_rel), first(median_rel, other.median_rel), first(mean_kl, other.mean_kl)};
}

void LogitErrors::add(std::span<const float> reference, std::span<const float> own) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < reference.size(); i++) {
    const double d = double{own[i]} - reference[i];
    difference += d * d, norm += double{reference[i]} * reference[i];
    difference_ = std::max(difference_, std::abs(own[i] - reference[i]));
  }
  rel_.push_back(difference == 0 ? 0 : std::sqrt(difference / norm));
  kl_ += kl_divergence(reference, own);
}

void LogitErrors::add(const LogitErrors& other) {
  rel_.insert(rel_.end(), other.rel_.begin(), other.rel_.end());
  kl_ += other.kl_;
  difference_ = std::max(difference_, other.difference_);
}

double LogitErrors::max_rel() const { return *std::ranges::max_element(rel_); }

double LogitErrors::median_rel() const {
  std::vector<double> sorted = rel_;
  const auto middle = sorted.begin() + static_cast<ptrdiff_t>(sorted.size() / 2);
  std::ranges::nth_element(sorted, middle);
  return *middle;
}

double LogitErrors::mean_rel() const {
  return std::accumulate(rel_.begin(), rel_.end(), 0.0) / static_cast<double>(rel_.size());
}

double LogitErrors::mean_kl() const { return kl_ / static_cast<double>(rel_.size()); }

std::vector<std::string> LogitErrors::above(const ErrorLimits& limits) const {
  std::vector<std::string> found;
  const auto compare = [&](const char* what, double value, const std::optional<double>& limit,
                           const char* option) {
    if (!limit || value <= *limit) return;
    char text[160];
    std::snprintf(text, sizeof text, "the %s is %.3g, above %s %g", what, value, option, *limit);
    found.emplace_back(text);
  };
  compare("largest relative error of a position", max_rel(), limits.max_rel, "--max-rel");
  compare("median relative error", median_rel(), limits.median_rel, "--max-median-rel");
  compare("mean KL divergence", mean_kl(), limits.mean_kl, "--max-kl");
  return found;
}

}  // namespace convoy::cli
