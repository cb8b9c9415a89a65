#pragma once
// A layer's experts on the CPU: rows are gathered by the expert they chose, so that each expert's weights are
// read once, and its products are the backend's own.

#include <vector>

#include "gpu/backend.hpp"
#include "gpu/cpu/memory.hpp"
#include "gpu/routing.hpp"

namespace convoy::gpu {

/// A row that goes to an expert.
struct Visit {
  int32_t expert = 0;
  int64_t row = 0;
  float weight = 0;
};

struct ExpertRooms {
  Room<float> logits, gathered, gated, results;
  Room<Visit> visits;  // of the step, by expert and then row

  void each(const StepBounds& b, auto&& use) {
    if (b.experts == 0) return;
    use(logits, b.rows * b.experts), use(visits, b.rows * b.experts_chosen);
    use(gathered, b.rows * b.hidden), use(gated, b.rows * b.expert_width), use(results, b.rows * b.hidden);
  }
};

class ExpertRunner {
 public:
  void reserve(const StepBounds& bounds);
  /// Backend::experts in terms of the backend's linear and gated_linear.
  void run(Backend& backend, Rows h, const ExpertSet& experts, const model::Routing& routing, Rows shared,
           Rows out);

 private:
  std::span<const Visit> choose(Backend& backend, Rows h, const ExpertSet& experts,
                                const model::Routing& routing);

  ExpertRooms rooms_;
  Router router_;
};

}  // namespace convoy::gpu
