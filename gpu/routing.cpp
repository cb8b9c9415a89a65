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

std::vector<int32_t> numbers_below(size_t count) {
  std::vector<int32_t> numbers(count);
  std::iota(numbers.begin(), numbers.end(), 0);
  return numbers;
}

/// Of the candidates the `count` with the largest values, of equals the lower; in no order.
std::vector<int32_t> largest(std::span<const float> values, std::vector<int32_t> candidates, int64_t count) {
  // A damaged model's NaN comes last: sorting needs an order.
  const auto value = [&](int32_t i) { return std::isnan(values[i]) ? never : values[i]; };
  const auto before = [&](int32_t a, int32_t b) {
    return value(a) != value(b) ? value(a) > value(b) : a < b;
  };
  std::partial_sort(candidates.begin(), candidates.begin() + count, candidates.end(), before);
  candidates.resize(static_cast<size_t>(count));
  return candidates;
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

/// The experts of the best groups. The others are left out, not marked by a value: a bias may be −∞ too.
std::vector<int32_t> of_best_groups(std::span<const float> values, const model::Routing& routing) {
  const size_t groups = static_cast<size_t>(routing.groups), size = values.size() / groups;
  std::vector<float> worth;
  for (size_t first = 0; first < values.size(); first += size)
    worth.push_back(worth_of(values.subspan(first, size), routing.group_score));
  std::vector<int32_t> experts;
  for (const int32_t group : largest(worth, numbers_below(groups), routing.groups_chosen))
    for (size_t i = 0; i < size; ++i)
      experts.push_back(static_cast<int32_t>(static_cast<size_t>(group) * size + i));
  return experts;
}

}  // namespace

std::vector<ExpertChoice> route(std::span<const float> logits, std::span<const float> bias,
                                const model::Routing& routing) {
  assert(static_cast<int64_t>(logits.size()) == routing.experts &&
         (bias.empty() || bias.size() == logits.size()));
  const std::vector<float> scores = scores_of(logits, routing.scoring);
  std::vector<float> compared = scores;
  for (size_t i = 0; i < bias.size(); ++i) compared[i] += bias[i];
  std::vector<int32_t> chosen = largest(compared, of_best_groups(compared, routing), routing.chosen);
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
