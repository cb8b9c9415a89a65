#include "gpu/cpu/experts.hpp"

#include <algorithm>
#include <cassert>
#include <utility>

#include "gpu/cpu/float_math.hpp"

namespace convoy::gpu {

void ExpertRunner::reserve(const StepBounds& bounds) {
  rooms_.each(bounds, TakeRoom());
  router_.reserve(bounds.experts);
}

std::span<const Visit> ExpertRunner::choose(Backend& backend, Rows h, const ExpertSet& experts,
                                            const model::Routing& routing) {
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
  for (int64_t r = 0; r < h.rows; r++)
    for (const auto& [expert, weight] : router_.route(of_experts(row_of(logits, r)), bias, routing))
      *next++ = {expert, r, weight};
  assert(next == visits.end());
  std::ranges::sort(visits, {}, [](const Visit& visit) { return std::pair(visit.expert, visit.row); });
  return visits;
}

void ExpertRunner::run(Backend& backend, Rows h, const ExpertSet& experts, const model::Routing& routing,
                       Rows shared, Rows out) {
  assert((!shared.data || shared.rows == h.rows) && out.rows == h.rows && out.width == h.width);
  const std::span<const Visit> visits = choose(backend, h, experts, routing);
  if (!shared.data)
    std::fill_n(row_of(out, 0), out.rows * out.width, 0.0f);
  else if (out.data != shared.data)
    std::copy_n(row_of(shared, 0), out.rows * out.width, row_of(out, 0));
  for (size_t first = 0; first < visits.size();) {
    const auto expert = static_cast<size_t>(visits[first].expert);
    size_t last = first;
    while (last < visits.size() && visits[last].expert == visits[first].expert) ++last;
    const auto count = static_cast<int64_t>(last - first);
    const Rows gathered{rooms_.gathered.at_least(count * h.width), count, h.width};
    for (int64_t i = 0; i < count; i++)
      std::copy_n(row_of(h, visits[first + static_cast<size_t>(i)].row), h.width, row_of(gathered, i));
    const int64_t width = experts.gate[expert].rows;
    const Rows gated{rooms_.gated.at_least(count * width), count, width},
        result{rooms_.results.at_least(count * h.width), count, h.width};
    backend.gated_linear(gathered, {&experts.gate[expert], &experts.up[expert], nullptr, nullptr, gated});
    const Projection down[] = {{&experts.down[expert], nullptr, result}};
    backend.linear(gated, down);
    // Experts come in the order of their numbers, so each row's sum has one order.
    for (int64_t i = 0; i < count; i++) {
      const Visit& visit = visits[first + static_cast<size_t>(i)];
      add_scaled(visit.weight, row_of(result, i), out.width, row_of(out, visit.row));
    }
    first = last;
  }
}

}  // namespace convoy::gpu
