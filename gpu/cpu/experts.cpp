#include "gpu/cpu/experts.hpp"

#include <algorithm>
#include <cassert>
#include <utility>

#include "gpu/cpu/cpu_backend.hpp"
#include "gpu/cpu/float_math.hpp"

namespace convoy::gpu {

void ExpertRunner::reserve(const StepBounds& bounds) {
  rooms_.each(bounds, TakeRoom());
  router_.reserve(bounds.experts);
}

std::span<const Visit> ExpertRunner::choose(Backend& backend, Rows h, const ExpertSet& experts,
                                            const model::Routing& routing, const RoutingTrace& trace) {
  const Rows logits{rooms_.logits.at_least(h.rows * routing.experts), h.rows, routing.experts};
  const Projection product[] = {{experts.router, nullptr, logits}};
  backend.linear(h, product);
  const auto of_experts = [&](const float* values) {
    return std::span(values, static_cast<size_t>(routing.experts));
  };
  const auto bias =
      experts.router_bias ? of_experts(vector_values(*experts.router_bias)) : std::span<const float>();
  const std::span visits(rooms_.visits.at_least(h.rows * routing.chosen),
                         static_cast<size_t>(h.rows * routing.chosen));
  auto next = visits.begin();
  const auto chosen = static_cast<size_t>(routing.chosen);
  for (int64_t r = 0; r < h.rows; r++) {
    const RoutingTrace of_row = trace.behind(r * routing.chosen);
    const std::span given(of_row.replayed, of_row.replayed ? chosen : 0);
    const auto choices = router_.route(of_experts(row_of(logits, r)), bias, routing, given);
    for (const auto& [expert, weight] : choices) *next++ = {expert, r, weight};
    if (of_row.recorded) std::ranges::transform(choices, of_row.recorded, &ExpertChoice::expert);
  }
  assert(next == visits.end());
  std::ranges::sort(visits, {}, [](const Visit& visit) { return std::pair(visit.expert, visit.row); });
  return visits;
}

/// As many experts from the first visit on as `most` visits are enough for.
std::span<const ExpertRows> ExpertRunner::first_parts(std::span<const Visit> visits, int64_t most,
                                                      int64_t experts) {
  ExpertRows* const parts = rooms_.parts.at_least(experts);
  size_t count = 0;
  for (int64_t first = 0, all = static_cast<int64_t>(visits.size()); first < all;) {
    const auto expert = [&](int64_t i) { return visits[static_cast<size_t>(i)].expert; };
    int64_t last = first;
    while (last < all && expert(last) == expert(first)) ++last;
    if (last > most) break;
    parts[count++] = {expert(first), first, last - first};
    first = last;
  }
  assert(count > 0);
  return {parts, count};
}

void ExpertRunner::run(CpuBackend& backend, Rows h, const ExpertSet& experts, const model::Routing& routing,
                       const RoutingTrace& trace, Rows shared, Rows out) {
  assert((!shared.data || shared.rows == h.rows) && out.rows == h.rows && out.width == h.width);
  std::span<const Visit> visits = choose(backend, h, experts, routing, trace);
  if (!shared.data)
    std::fill_n(row_of(out, 0), out.rows * out.width, 0.0f);
  else if (out.data != shared.data)
    std::copy_n(row_of(shared, 0), out.rows * out.width, row_of(out, 0));
  const int64_t most = visits_max(h.rows, routing.chosen);
  while (!visits.empty()) {
    const auto parts = first_parts(visits, most, routing.experts);
    const int64_t count = parts.back().first + parts.back().rows;
    const auto width = experts.gate[static_cast<size_t>(parts[0].expert)].rows;
    const Rows gathered{rooms_.gathered.at_least(count * h.width), count, h.width},
        gated{rooms_.gated.at_least(count * width), count, width},
        results{rooms_.results.at_least(count * h.width), count, h.width};
    const auto together = visits.first(static_cast<size_t>(count));
    for (int64_t i = 0; const Visit& visit : together)
      std::copy_n(row_of(h, visit.row), h.width, row_of(gathered, i++));
    backend.gate_experts(gathered, experts, parts, gated);
    backend.project_experts(gated, experts, parts, results);
    // Experts come in the order of their numbers, so each row's sum has one order.
    for (int64_t i = 0; const Visit& visit : together)
      add_scaled(visit.weight, row_of(results, i++), out.width, row_of(out, visit.row));
    visits = visits.subspan(static_cast<size_t>(count));
  }
}

}  // namespace convoy::gpu
