#pragma once
// What the two ways of `convoy verify` share: its options and how two rows of logits are compared.

#include <algorithm>
#include <cmath>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cli/backend_option.hpp"
#include "cli/model_option.hpp"
#include "model/parallel.hpp"

namespace convoy::cli {

struct VerifyOptions {
  ModelOption model;
  std::string golden, text;
  BackendOption backend, against;
  std::vector<int64_t> split;
  std::optional<double> tolerance;
  int threads = static_cast<int>(model::all_cores());
  bool json = false;
};

/// Against stored logits (--golden), in float32 unless --backend says otherwise. Returns the exit code.
int verify_golden(const VerifyOptions& options);
/// One backend against another over a text (--against), the best one unless --backend says otherwise. Returns
/// the exit code.
int verify_text(const VerifyOptions& options);

inline size_t arg_max(std::span<const float> values) {
  return static_cast<size_t>(std::max_element(values.begin(), values.end()) - values.begin());
}

inline double log_sum_exp(std::span<const float> logits) {
  const double largest = logits[arg_max(logits)];
  double sum = 0;
  for (float logit : logits) sum += std::exp(logit - largest);
  return largest + std::log(sum);
}

/// KL(p ‖ q) of the distributions behind two rows of logits, in nats.
inline double kl_divergence(std::span<const float> p, std::span<const float> q) {
  const double p_norm = log_sum_exp(p), q_norm = log_sum_exp(q);
  double kl = 0;
  for (size_t i = 0; i < p.size(); i++) kl += std::exp(p[i] - p_norm) * ((p[i] - p_norm) - (q[i] - q_norm));
  return kl;
}

}  // namespace convoy::cli
