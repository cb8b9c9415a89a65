#pragma once
// A layer's experts on the CPU: rows are gathered by the expert they chose, so that each expert's weights are
// read once. The products of all experts, or of as many as fit, are one loop of the backend.

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "gpu/backend.hpp"
#include "gpu/cpu/memory.hpp"
#include "gpu/routing.hpp"

namespace convoy::gpu {

class CpuBackend;

/// A row that goes to an expert.
struct Visit {
  int32_t expert = 0;
  int64_t row = 0;
  float weight = 0;
};

/// Rows that lie one after the other and go to the same expert.
struct ExpertRows {
  int32_t expert = 0;
  int64_t first = 0, rows = 0;
};

/// Visits that are gathered at once: those of a whole batch of decodes. All of a prompt's would take a
/// multiple of the memory that its rows take, and have work enough in each part.
inline constexpr int64_t visits_together = 512;
/// At least those of one expert, which all rows may have chosen.
inline int64_t visits_max(int64_t rows, int64_t chosen) {
  return std::min(rows * chosen, std::max(rows, visits_together));
}

struct ExpertRooms {
  Room<float> logits, gathered, gated, results;
  Room<Visit> visits;      // of the step, by expert and then row
  Room<ExpertRows> parts;  // of those that are gathered

  void each(const StepBounds& b, auto&& use) {
    if (b.experts == 0) return;
    const int64_t most = visits_max(b.rows, b.experts_chosen);
    use(logits, b.rows * b.experts), use(visits, b.rows * b.experts_chosen);
    use(gathered, most * b.hidden), use(gated, most * b.expert_width), use(results, most * b.hidden);
    use(parts, b.experts);
  }
};

class ExpertRunner {
 public:
  void reserve(const StepBounds& bounds);
  /// Backend::experts in terms of the backend's products.
  void run(CpuBackend& backend, Rows h, const ExpertSet& experts, const model::Routing& routing,
           const RoutingTrace& trace, Rows shared, Rows out);

 private:
  std::span<const Visit> choose(Backend& backend, Rows h, const ExpertSet& experts,
                                const model::Routing& routing, const RoutingTrace& trace);
  std::span<const ExpertRows> first_parts(std::span<const Visit> visits, int64_t most, int64_t experts);

  ExpertRooms rooms_;
  Router router_;
};

}  // namespace convoy::gpu
