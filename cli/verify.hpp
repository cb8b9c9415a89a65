#pragma once
// What the two ways of `convoy verify` share.

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "cli/backend_option.hpp"
#include "cli/logit_errors.hpp"
#include "cli/model_option.hpp"
#include "model/parallel.hpp"
#include "model/tensor.hpp"

namespace convoy::cli {

/// Where rows go in a model with experts, beside a run in float32 that chooses by its own scores.
enum class RoutingRule : uint8_t {
  own,    // where the scores of the run that is checked say
  replay  // to the experts that the float32 run chose
};

struct VerifyOptions {
  ModelOption model;
  std::string golden, text;
  BackendOption backend, against;
  std::vector<int64_t> split;
  std::optional<RoutingRule> routing;
  std::optional<model::DType> kv_type;  // of what is checked; else its device's choice
  ErrorLimits limits;
  int threads = static_cast<int>(model::all_cores());
  bool json = false;
};

/// Of activations in bf16 where rows go the same way as in float32.
inline constexpr ErrorLimits replay_limits{.max_rel = 0.25, .median_rel = 4e-2, .mean_kl = 4e-3};

/// Says what does not hold. Returns the exit code.
int complain(const std::vector<std::string>& faults);
/// What is wrong if rows went to other experts although they were told where to go.
std::optional<std::string> replay_fault(const VerifyOptions& options, double experts_differ);

/// Against stored logits (--golden), in float32 unless --backend says otherwise. Returns the exit code.
int verify_golden(const VerifyOptions& options);
/// One backend against another over a text (--against), the best one unless --backend says otherwise. Returns
/// the exit code.
int verify_text(const VerifyOptions& options);

}  // namespace convoy::cli
