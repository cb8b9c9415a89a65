#pragma once
// Which experts a row goes to, from the router's scores: a pure function, the same for every backend.
// Router is its form that allocates once.

#include <cstdint>
#include <span>
#include <vector>

#include "model/config.hpp"

namespace convoy::gpu {

struct ExpertChoice {
  int32_t expert = 0;
  float weight = 0;
};

/// The experts of one row, in the order of their numbers. `logits` [experts] are the router's products;
/// `bias` [experts] or empty. In float32 as the reference does it:
///   scores = softmax or sigmoid of the logits; what is compared is score + bias;
///   with groups only experts of the best groups can be chosen, a group being worth its best or its two best;
///   weights are the scores without bias, divided by their sum if normalised, times scale.
/// Of equals the lower number is chosen.
std::vector<ExpertChoice> route(std::span<const float> logits, std::span<const float> bias,
                                const model::Routing& routing);

/// route() for row after row.
class Router {
 public:
  /// Takes the memory for so many experts.
  void reserve(int64_t experts);
  /// Valid until the next call. `given`: the experts, ascending, of which only the weights are left to say;
  /// empty: they are chosen.
  std::span<const ExpertChoice> route(std::span<const float> logits, std::span<const float> bias,
                                      const model::Routing& routing, std::span<const int32_t> given = {});

 private:
  void choose(std::span<const float> bias, const model::Routing& routing);
  void choose_groups(const model::Routing& routing);

  std::vector<float> scores_, compared_, worth_;
  std::vector<int32_t> groups_, experts_;
  std::vector<ExpertChoice> choices_;
};

}  // namespace convoy::gpu
