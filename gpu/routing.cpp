#include "gpu/routing.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>
#include <numeric>
#include <utility>

namespace convoy::gpu {

namespace {

constexpr float never = -std::numeric_limits<float>::infinity();

std::vector<float> scores_of(std::span<const float> logits, model::Scoring scoring) {
  std::vector<float> scores(logits.begin(), logits.end());
  if (scoring == model::Scoring::sigmoid) {
    for (float& s : scores) s = 1 / (1 + std::exp(-s));
    return scores;
  }
  const float largest = *std::ranges::max_element(scores);
  float sum = 0;
  for (float& s : scores) sum += s = std::exp(s - largest);
  for (float& s : scores) s /= sum;
  return scores;
}

/// The numbers of the `count` largest values, of equals the lower; in no order.
std::vector<int32_t> largest(std::span<const float> values, int64_t count) {
  std::vector<int32_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  // A damaged model's NaN comes last: sorting needs an order.
  const auto value = [&](int32_t i) { return std::isnan(values[i]) ? never : values[i]; };
  const auto before = [&](int32_t a, int32_t b) {
    return value(a) != value(b) ? value(a) > value(b) : a < b;
  };
  std::partial_sort(order.begin(), order.begin() + count, order.end(), before);
  order.resize(static_cast<size_t>(count));
  return order;
}

float worth_of(std::span<const float> group, model::GroupScore kind) {
  float best = never, second = never;
  for (const float value : group) {
    if (value > best)
      second = std::exchange(best, value);
    else
      second = std::max(second, value);
  }
  return kind == model::GroupScore::best ? best : best + second;
}

/// Leaves only the experts of the best groups.
void keep_best_groups(std::vector<float>& values, const model::Routing& routing) {
  const size_t size = values.size() / static_cast<size_t>(routing.groups);
  std::vector<float> worth;
  for (size_t first = 0; first < values.size(); first += size)
    worth.push_back(worth_of(std::span(values).subspan(first, size), routing.group_score));
  std::vector<bool> kept(worth.size(), false);
  for (const int32_t group : largest(worth, routing.groups_chosen)) kept[static_cast<size_t>(group)] = true;
  for (size_t i = 0; i < values.size(); ++i)
    if (!kept[i / size]) values[i] = never;
}

}  // namespace

std::vector<ExpertChoice> route(std::span<const float> logits, std::span<const float> bias,
                                const model::Routing& routing) {
  assert(static_cast<int64_t>(logits.size()) == routing.experts &&
         (bias.empty() || bias.size() == logits.size()));
  const std::vector<float> scores = scores_of(logits, routing.scoring);
  std::vector<float> compared = scores;
  for (size_t i = 0; i < bias.size(); ++i) compared[i] += bias[i];
  if (routing.groups > routing.groups_chosen) keep_best_groups(compared, routing);

  std::vector<int32_t> chosen = largest(compared, routing.chosen);
  std::ranges::sort(chosen);
  std::vector<ExpertChoice> choices;
  float sum = 0;
  for (const int32_t expert : chosen) {
    choices.push_back({expert, scores[static_cast<size_t>(expert)]});
    sum += choices.back().weight;
  }
  for (ExpertChoice& choice : choices) {
    if (routing.normalised) choice.weight /= sum + 1e-20f;  // as the reference avoids a division by 0
    choice.weight *= static_cast<float>(routing.scale);
  }
  return choices;
}

}  // namespace convoy::gpu
