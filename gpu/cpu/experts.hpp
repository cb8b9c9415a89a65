#pragma once
// A layer's experts on the CPU: rows are gathered by the expert they chose, so that each expert's weights are
// read once, and its products are the backend's own.

#include "gpu/backend.hpp"
#include "gpu/cpu/thread_pool.hpp"

namespace convoy::gpu {

class ExpertRunner {
 public:
  /// Backend::experts in terms of the backend's linear and gated_linear.
  void run(Backend& backend, Rows h, const ExpertSet& experts, const model::Routing& routing, Rows shared,
           Rows out);

 private:
  struct Visit {
    int32_t expert;
    int64_t row;
    float weight;
  };
  void choose(Backend& backend, Rows h, const ExpertSet& experts, const model::Routing& routing);

  std::vector<Visit> visits_;  // of the step, by expert and then row
  std::vector<float> logits_, bias_, gathered_, gated_, results_;
};

}  // namespace convoy::gpu
