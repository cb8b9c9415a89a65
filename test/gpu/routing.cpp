// route() against its definition, over random configurations and scores that were made to tie.

#include "gpu/routing.hpp"
#include "test/patience.hpp"

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <random>
#include <string>

using namespace convoy;
using namespace convoy::gpu;
using model::GroupScore;
using model::Routing;
using model::Scoring;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

struct Row {
  Routing routing;
  std::vector<float> logits, bias;
};

std::string described(const Row& row) {
  const Routing& r = row.routing;
  std::string text = std::to_string(r.chosen) + " of " + std::to_string(r.experts) + ", " +
                     std::to_string(r.groups_chosen) + " of " + std::to_string(r.groups) + " groups";
  for (const auto* values : {&row.logits, &row.bias}) {
    text += values == &row.logits ? "; logits" : "; bias";
    for (const float value : *values) text += ' ' + std::to_string(value);
  }
  return text;
}

/// Of one seed, which a failure prints; CONVOY_TEST_SEED repeats it.
class RowMaker {
 public:
  explicit RowMaker(uint32_t seed) : random_(seed) {}

  /// Any of the published variants: greedy, group-limited by the best expert, by the two best with a bias.
  Row make(float odd_value) {
    Row row;
    Routing& r = row.routing;
    const int64_t variant = below(3), group = 2 + below(7);
    r.groups = variant == 0 ? 1 : 1 + below(8);
    r.groups_chosen = 1 + below(r.groups);
    r.experts = r.groups * group;
    r.chosen = 1 + below(group * r.groups_chosen);
    r.scoring = variant == 2 ? Scoring::sigmoid : Scoring::softmax;
    r.group_score = variant == 2 ? GroupScore::best_two : GroupScore::best;
    r.biased = variant == 2;
    r.normalised = below(2) == 1;
    r.scale = below(2) == 1 ? 2.5 : 1;
    const int64_t steps = 1 + below(40);
    row.logits = values(r.experts, steps, odd_value);
    if (r.biased) row.bias = values(r.experts, steps, odd_value);
    return row;
  }

 private:
  int64_t below(int64_t end) { return static_cast<int64_t>(random_() % static_cast<uint32_t>(end)); }

  /// Multiples of 1/4: with few steps many are equal. In one row of four some are the odd value, or all are.
  std::vector<float> values(int64_t count, int64_t steps, float odd_value) {
    const bool odd = below(4) == 0;
    const int64_t one_in = 1 + below(8);
    std::vector<float> out(static_cast<size_t>(count));
    for (float& value : out)
      value = odd && below(one_in) == 0 ? odd_value : static_cast<float>(below(steps) - steps / 2) / 4;
    return out;
  }

  std::mt19937 random_;
};

uint32_t seed() {
  const char* given = std::getenv("CONVOY_TEST_SEED");
  const uint32_t value = given ? static_cast<uint32_t>(std::stoul(given)) : std::random_device()();
  BOOST_TEST_MESSAGE("CONVOY_TEST_SEED=" << value);
  return value;
}

/// Of two numbers the one that is chosen first: the larger value, of equals the lower number; NaN is the
/// least.
bool beats(const std::vector<float>& values, size_t a, size_t b) {
  const float x = std::isnan(values[a]) ? -infinity : values[a],
              y = std::isnan(values[b]) ? -infinity : values[b];
  return x != y ? x > y : a < b;
}

/// Whether fewer than `count` of the candidates beat this one.
bool among_the_first(const std::vector<float>& values, const std::vector<bool>& candidates, size_t one,
                     int64_t count) {
  int64_t better = 0;
  for (size_t i = 0; i < values.size(); ++i) better += candidates[i] && beats(values, i, one);
  return candidates[one] && better < count;
}

/// What is compared: rounded to float32 where the definition says so, since that makes ties.
std::vector<float> scores_of(const Row& row) {
  std::vector<float> scores;
  const float top = *std::max_element(row.logits.begin(), row.logits.end());
  float sum = 0;
  for (const float logit : row.logits) sum += std::exp(logit - top);
  for (const float logit : row.logits)
    scores.push_back(row.routing.scoring == Scoring::sigmoid ? 1.0f / (1.0f + std::exp(-logit))
                                                             : std::exp(logit - top) / sum);
  return scores;
}

/// Each expert is asked alone whether it is chosen.
std::vector<int32_t> chosen_by_definition(const Row& row) {
  const Routing& r = row.routing;
  std::vector<float> values = scores_of(row);
  for (size_t i = 0; i < row.bias.size(); ++i) values[i] += row.bias[i];

  const auto groups = static_cast<size_t>(r.groups), size = values.size() / groups;
  std::vector<float> worth;
  for (size_t g = 0; g < groups; ++g) {
    const auto first = values.begin() + static_cast<ptrdiff_t>(g * size);
    std::vector<float> sorted(first, first + static_cast<ptrdiff_t>(size));
    for (float& value : sorted) value = std::isnan(value) ? -infinity : value;
    std::sort(sorted.rbegin(), sorted.rend());
    worth.push_back(r.group_score == GroupScore::best ? sorted[0] : sorted[0] + sorted[1]);
  }
  const std::vector<bool> every_group(groups, true);
  std::vector<bool> candidates;
  for (size_t i = 0; i < values.size(); ++i)
    candidates.push_back(among_the_first(worth, every_group, i / size, r.groups_chosen));
  std::vector<int32_t> chosen;
  for (size_t i = 0; i < values.size(); ++i)
    if (among_the_first(values, candidates, i, r.chosen)) chosen.push_back(static_cast<int32_t>(i));
  return chosen;
}

/// The weights of these experts, in double.
std::vector<double> weights_by_definition(const Row& row, const std::vector<int32_t>& chosen) {
  const Routing& r = row.routing;
  double all = 0, sum = 0;
  for (const float logit : row.logits) all += std::exp(double{logit});
  std::vector<double> weights;
  for (const int32_t expert : chosen) {
    const double logit = row.logits[static_cast<size_t>(expert)];
    weights.push_back(r.scoring == Scoring::sigmoid ? 1 / (1 + std::exp(-logit)) : std::exp(logit) / all);
    sum += weights.back();
  }
  for (double& weight : weights) weight *= r.scale / (r.normalised ? sum + 1e-20 : 1);
  return weights;
}

std::vector<int32_t> experts_of(const std::vector<ExpertChoice>& choices) {
  std::vector<int32_t> experts;
  for (const ExpertChoice& choice : choices) experts.push_back(choice.expert);
  return experts;
}

constexpr int rows_made = convoy::test::sanitized ? 5'000 : 100'000;

}  // namespace

BOOST_AUTO_TEST_CASE(rows_go_where_the_definition_sends_them) {
  const uint32_t first = seed();
  BOOST_TEST_CONTEXT("CONVOY_TEST_SEED=" << first) {
    RowMaker maker(first);
    int64_t undefined = 0;  // rows
    for (int i = 0; i < rows_made; ++i) {
      const Row row = maker.make(-infinity);
      const auto own = route(row.logits, row.bias, row.routing);
      const auto chosen = chosen_by_definition(row);
      BOOST_REQUIRE_MESSAGE(experts_of(own) == chosen, "row " << i << ": " << described(row));
      const auto weights = weights_by_definition(row, chosen);
      for (size_t j = 0; j < own.size(); ++j) {
        const bool both_undefined = std::isnan(own[j].weight) && std::isnan(weights[j]);
        undefined += both_undefined && j == 0;
        BOOST_REQUIRE_MESSAGE(
            both_undefined || std::abs(own[j].weight - weights[j]) < 1e-6 * (1 + weights[j]),
            "row " << i << ": weight " << own[j].weight << ", not " << weights[j] << "; " << described(row));
      }
    }
    BOOST_TEST(undefined < rows_made / 10);  // a softmax over nothing but −inf; more would hide the others
  }
}

BOOST_AUTO_TEST_CASE(nan_and_infinity_still_give_so_many_different_experts) {
  const uint32_t first = seed();
  BOOST_TEST_CONTEXT("CONVOY_TEST_SEED=" << first) {
    RowMaker maker(first);
    for (int i = 0; i < 30'000; ++i) {
      const Row row = maker.make(i % 3 == 0 ? infinity : not_a_number);
      const auto experts = experts_of(route(row.logits, row.bias, row.routing));
      BOOST_REQUIRE_EQUAL(static_cast<int64_t>(experts.size()), row.routing.chosen);
      for (size_t j = 0; j < experts.size(); ++j)
        BOOST_REQUIRE_MESSAGE(experts[j] > (j == 0 ? -1 : experts[j - 1]) && experts[j] < row.routing.experts,
                              "row " << i << ": " << described(row));
    }
  }
}

BOOST_AUTO_TEST_CASE(a_bias_of_minus_infinity_does_not_lead_out_of_the_chosen_groups) {
  // The second group is the best one; three of its experts are barred, and one of them is needed all the
  // same.
  const Routing routing{.experts = 8,
                        .chosen = 2,
                        .groups = 2,
                        .groups_chosen = 1,
                        .scoring = Scoring::sigmoid,
                        .group_score = GroupScore::best,
                        .biased = true};
  const std::vector<float> logits = {-4, -4, -4, -4, 0, 0, 4, 0};
  const std::vector<float> bias = {0, 0, 0, 0, -infinity, -infinity, 0, -infinity};
  BOOST_TEST(experts_of(route(logits, bias, routing)) == (std::vector<int32_t>{4, 6}),
             boost::test_tools::per_element());
}
