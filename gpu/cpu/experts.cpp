#include "gpu/cpu/experts.hpp"

#include <algorithm>
#include <cassert>

#include "gpu/cpu/float_math.hpp"
#include "gpu/routing.hpp"

namespace convoy::gpu {

namespace {

/// A buffer that only grows, as rows.
Rows rows_in(std::vector<float>& memory, int64_t rows, int64_t width) {
  if (memory.size() < static_cast<size_t>(rows * width)) memory.resize(static_cast<size_t>(rows * width));
  return {memory.data(), rows, width};
}

}  // namespace

void ExpertRunner::choose(Backend& backend, Rows h, const ExpertSet& experts, const model::Routing& routing) {
  const Rows logits = rows_in(logits_, h.rows, routing.experts);
  const Projection product[] = {{experts.router, nullptr, logits}};
  backend.linear(h, product);
  bias_.resize(experts.router_bias ? static_cast<size_t>(routing.experts) : 0);
  if (experts.router_bias) WeightRows(*experts.router_bias).read(0, bias_.data());
  visits_.clear();
  for (int64_t r = 0; r < h.rows; r++)
    for (const auto& [expert, weight] :
         route({row_of(logits, r), static_cast<size_t>(logits.width)}, bias_, routing))
      visits_.push_back({expert, r, weight});
  std::ranges::stable_sort(visits_, {}, &Visit::expert);
}

void ExpertRunner::run(Backend& backend, Rows h, const ExpertSet& experts, const model::Routing& routing,
                       Rows shared, Rows out) {
  assert((!shared.data || shared.rows == h.rows) && out.rows == h.rows && out.width == h.width);
  choose(backend, h, experts, routing);
  if (!shared.data)
    std::fill_n(row_of(out, 0), out.rows * out.width, 0.0f);
  else if (out.data != shared.data)
    std::copy_n(row_of(shared, 0), out.rows * out.width, row_of(out, 0));
  for (size_t first = 0; first < visits_.size();) {
    const auto expert = static_cast<size_t>(visits_[first].expert);
    size_t last = first;
    while (last < visits_.size() && visits_[last].expert == visits_[first].expert) ++last;
    const auto count = static_cast<int64_t>(last - first);
    const Rows gathered = rows_in(gathered_, count, h.width);
    for (int64_t i = 0; i < count; i++)
      std::copy_n(row_of(h, visits_[first + static_cast<size_t>(i)].row), h.width, row_of(gathered, i));
    const Rows gated = rows_in(gated_, count, experts.gate[expert].rows),
               result = rows_in(results_, count, h.width);
    backend.gated_linear(gathered, experts.gate[expert], experts.up[expert], gated);
    const Projection down[] = {{&experts.down[expert], nullptr, result}};
    backend.linear(gated, down);
    // Experts come in the order of their numbers, so each row's sum has one order.
    for (int64_t i = 0; i < count; i++) {
      const Visit& visit = visits_[first + static_cast<size_t>(i)];
      add_scaled(visit.weight, row_of(result, i), out.width, row_of(out, visit.row));
    }
    first = last;
  }
}

}  // namespace convoy::gpu
