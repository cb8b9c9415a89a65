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

void turn_into_scores(std::span<float> logits, model::Scoring scoring) {
  if (scoring == model::Scoring::sigmoid) {
    for (float& s : logits) s = 1 / (1 + std::exp(-s));
    return;
  }
  const float largest = *std::ranges::max_element(logits);
  float sum = 0;
  for (float& s : logits) sum += s = std::exp(s - largest);
  for (float& s : logits) s /= sum;
}

/// Keeps of the candidates the `count` with the largest values, of equals the lower; in no order.
void keep_largest(std::span<const float> values, std::vector<int32_t>& candidates, int64_t count) {
  // A damaged model's NaN comes last: sorting needs an order.
  const auto value = [&](int32_t i) { return std::isnan(values[i]) ? never : values[i]; };
  const auto before = [&](int32_t a, int32_t b) {
    return value(a) != value(b) ? value(a) > value(b) : a < b;
  };
  std::partial_sort(candidates.begin(), candidates.begin() + count, candidates.end(), before);
  candidates.resize(static_cast<size_t>(count));
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

}  // namespace

void Router::reserve(int64_t experts) {
  const auto count = static_cast<size_t>(experts);
  for (std::vector<float>* values : {&scores_, &compared_, &worth_}) values->reserve(count);
  groups_.reserve(count), experts_.reserve(count), choices_.reserve(count);
}

/// Leaves the experts of the best groups. The others are left out, not marked by a value: a bias may be −∞
/// too.
void Router::choose_groups(const model::Routing& routing) {
  const size_t groups = static_cast<size_t>(routing.groups), size = compared_.size() / groups;
  worth_.clear(), experts_.clear();
  for (size_t first = 0; first < compared_.size(); first += size)
    worth_.push_back(worth_of(std::span(compared_).subspan(first, size), routing.group_score));
  groups_.resize(groups);
  std::iota(groups_.begin(), groups_.end(), 0);
  keep_largest(worth_, groups_, routing.groups_chosen);
  for (const int32_t group : groups_)
    for (size_t i = 0; i < size; ++i)
      experts_.push_back(static_cast<int32_t>(static_cast<size_t>(group) * size + i));
}

void Router::choose(std::span<const float> bias, const model::Routing& routing) {
  compared_ = scores_;
  for (size_t i = 0; i < bias.size(); ++i) compared_[i] += bias[i];
  choose_groups(routing);
  keep_largest(compared_, experts_, routing.chosen);
  std::ranges::sort(experts_);
}

std::span<const ExpertChoice> Router::route(std::span<const float> logits, std::span<const float> bias,
                                            const model::Routing& routing, std::span<const int32_t> given) {
  assert(static_cast<int64_t>(logits.size()) == routing.experts &&
         (bias.empty() || bias.size() == logits.size()) &&
         (given.empty() || static_cast<int64_t>(given.size()) == routing.chosen));
  scores_.assign(logits.begin(), logits.end());
  turn_into_scores(scores_, routing.scoring);
  if (given.empty())
    choose(bias, routing);
  else
    experts_.assign(given.begin(), given.end());
  choices_.clear();
  float sum = 0;
  for (const int32_t expert : experts_) {
    choices_.push_back({expert, scores_[static_cast<size_t>(expert)]});
    sum += choices_.back().weight;
  }
  for (ExpertChoice& choice : choices_) {
    if (routing.normalised) choice.weight /= sum + 1e-20f;  // as the reference avoids a division by 0
    choice.weight *= static_cast<float>(routing.scale);
  }
  return choices_;
}

std::vector<ExpertChoice> route(std::span<const float> logits, std::span<const float> bias,
                                const model::Routing& routing) {
  Router router;
  const auto choices = router.route(logits, bias, routing);
  return {choices.begin(), choices.end()};
}

}  // namespace convoy::gpu
