// What the filters leave and what is drawn, against sorting and adding in the plainest way.

#include "gpu/mass_row.hpp"

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "gpu/cpu/memory.hpp"

using namespace convoy::gpu;
using Wide = unsigned __int128;

namespace {

struct Filters {
  float temperature = 1;
  uint32_t top_k = 0;
  float top_p = 1, min_p = 0;
};
std::ostream& operator<<(std::ostream& out, const Filters& f) {
  return out << "temperature " << f.temperature << ", top_k " << f.top_k << ", top_p " << f.top_p
             << ", min_p " << f.min_p;
}

struct Row {
  Row(const std::vector<float>& logits, const Filters& f)
      : memory(allocate_aligned(MassRow::bytes(static_cast<int64_t>(logits.size())))),
        row(logits, static_cast<std::byte*>(memory.get())) {
    row.fill(*std::ranges::max_element(logits), halvings_scale(f.temperature),
             f.min_p > 0 ? halvings_within(least_mass(f.min_p)) : halvings_max);
    if (f.top_k > 0) row.keep_first(f.top_k);
    if (f.top_p < 1) row.keep_share(f.top_p);
  }

  Buffer memory;
  MassRow row;
};

struct Token {
  int32_t id;
  uint64_t mass;
  bool operator==(const Token&) const = default;
};
std::ostream& operator<<(std::ostream& out, const Token& t) { return out << t.id << ": " << t.mass; }

/// Of each token that may be drawn, by id.
std::vector<Token> left_of(const std::vector<float>& logits, const Filters& f) {
  const float best = *std::ranges::max_element(logits), scale = halvings_scale(f.temperature);
  std::vector<Token> tokens;
  for (size_t i = 0; i < logits.size(); i++)
    if (const uint64_t mass = mass_of(halvings_of(logits[i], best, scale));
        mass > 0 && static_cast<double>(mass) >= static_cast<double>(f.min_p) * 0x1p40)
      tokens.push_back({static_cast<int32_t>(i), mass});
  std::ranges::stable_sort(tokens, [&](const Token& a, const Token& b) {
    return logits[static_cast<size_t>(a.id)] > logits[static_cast<size_t>(b.id)];
  });
  if (f.top_k > 0 && f.top_k < tokens.size()) tokens.resize(f.top_k);
  if (f.top_p < 1) {
    Wide total = 0, sum = 0;
    for (const Token& t : tokens) total += t.mass;
    const auto share = static_cast<uint64_t>(std::ldexp(f.top_p, 60));  // exact
    size_t kept = 0;
    while (sum << 60 < total * share) sum += tokens[kept++].mass;
    tokens.resize(kept);
  }
  std::ranges::sort(tokens, {}, &Token::id);
  return tokens;
}

/// The same, as draws find it: every unit of mass has its word.
std::vector<Token> drawn_from(const MassRow& row) {
  const uint64_t total = row.total();
  const auto word_of = [total](uint64_t unit) {
    return static_cast<uint64_t>(((Wide{unit} << 64) + total - 1) / total);
  };
  std::vector<Token> tokens;
  for (uint64_t unit = 0; unit < total;) {
    const int32_t id = row.draw(word_of(unit));
    uint64_t low = unit, high = total;  // the first unit of another token
    while (high - low > 1) {
      const uint64_t middle = low + (high - low) / 2;
      (row.draw(word_of(middle)) == id ? low : high) = middle;
    }
    tokens.push_back({id, high - unit});
    unit = high;
  }
  return tokens;
}

class RowMaker {
 public:
  explicit RowMaker(uint32_t seed) : random_(seed) {}

  /// Some peaked, some flat, many with ties, some with masked tokens.
  std::vector<float> logits(size_t vocab) {
    std::normal_distribution<float> normal(0, pick({1e-30f, 0.01f, 1.0f, 4.0f, 30.0f}));
    const float step = pick({0.0f, 0.0f, 0.5f, 4.0f});
    std::vector<float> logits(vocab);
    for (float& logit : logits) {
      logit = normal(random_);
      if (step > 0) logit = std::round(logit / step) * step;
      if (masks_ && random_() % 5 == 0) logit = -std::numeric_limits<float>::infinity();
    }
    logits[random_() % vocab] = 1;  // one is not masked
    masks_ = !masks_;
    return logits;
  }
  Filters filters(size_t vocab) {
    return {.temperature = pick({1.0f, 1.0f, 0.6f, 1.7f, 1e-3f, 50.0f}),
            .top_k = random_() % 2 ? static_cast<uint32_t>(1 + random_() % (vocab + 2)) : 0,
            .top_p = pick({1.0f, 0.95f, 0.5f, 0.999f, 1e-6f}),
            .min_p = pick({0.0f, 0.0f, 0.02f, 0.7f, 1.0f})};
  }
  size_t below(size_t n) { return random_() % n; }

 private:
  float pick(std::initializer_list<float> values) { return values.begin()[random_() % values.size()]; }

  std::mt19937 random_;
  bool masks_ = false;
};

}  // namespace

BOOST_AUTO_TEST_CASE(filters_leave_exactly_what_sorting_leaves_and_draws_reach_each_unit_of_it) {
  const uint32_t seed = std::random_device{}();
  RowMaker rows(seed);
  for (int round = 0; round < 300; round++) {
    const size_t vocab = 1 + rows.below(round % 10 ? 40 : 700);
    const auto logits = rows.logits(vocab);
    const Filters f = rows.filters(vocab);
    BOOST_TEST_CONTEXT("seed " << seed << ", round " << round << ", vocabulary " << vocab << ", " << f) {
      const auto left = drawn_from(Row(logits, f).row);
      BOOST_TEST_REQUIRE(left == left_of(logits, f), boost::test_tools::per_element());
    }
  }
}

BOOST_AUTO_TEST_CASE(a_large_vocabulary_is_filtered_as_a_small_one) {
  for (const size_t vocab : {49'152, 129'280}) {
    const uint32_t seed = std::random_device{}();
    RowMaker rows(seed);
    for (int round = 0; round < 6; round++) {
      const auto logits = rows.logits(vocab);
      const Filters f = rows.filters(round % 2 ? vocab : 100);
      BOOST_TEST_CONTEXT("seed " << seed << ", round " << round << ", vocabulary " << vocab << ", " << f) {
        const Row tested(logits, f);
        const auto left = left_of(logits, f);
        uint64_t total = 0;
        for (const Token& t : left) total += t.mass;
        BOOST_TEST_REQUIRE(tested.row.total() == total);
        for (int i = 0; i < 50; i++) {
          const uint64_t word = uint64_t{0x9E3779B97F4A7C15} * static_cast<uint64_t>(i);
          uint64_t unit = drawn_unit(word, total);
          auto token = left.begin();
          for (; unit >= token->mass; ++token) unit -= token->mass;
          BOOST_TEST_REQUIRE(tested.row.draw(word) == token->id);
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(sums_are_the_same_in_any_order_and_in_any_pieces) {
  RowMaker rows(1);
  std::mt19937 random(2);
  for (int round = 0; round < 10; round++) {
    const auto logits = rows.logits(3000 + rows.below(200));
    const uint64_t total = Row(logits, {}).row.total();
    const float best = *std::ranges::max_element(logits);
    auto permuted = logits;
    std::ranges::shuffle(permuted, random);
    BOOST_TEST(Row(permuted, {}).row.total() == total);
    uint64_t pieces[7] = {};
    for (size_t i = 0; i < permuted.size(); i++)
      pieces[random() % 7] += mass_of(halvings_of(permuted[i], best, halvings_scale(1)));
    BOOST_TEST(std::accumulate(pieces, pieces + 7, uint64_t{0}) == total);
    // What is left is the same set wherever its tokens stand, if their logits differ.
    std::vector<float> distinct(2000);
    for (size_t i = 0; i < distinct.size(); i++) distinct[i] = -0.004f * static_cast<float>(i);
    const Filters f{.top_k = 900, .top_p = 0.8f};
    const auto logits_left = [&](const std::vector<float>& of) {
      std::vector<float> left;
      for (const Token& t : drawn_from(Row(of, f).row)) left.push_back(of[static_cast<size_t>(t.id)]);
      std::ranges::sort(left);
      return left;
    };
    const auto expected = logits_left(distinct);
    std::ranges::shuffle(distinct, random);
    BOOST_TEST(logits_left(distinct) == expected, boost::test_tools::per_element());
  }
}

BOOST_AUTO_TEST_CASE(filters_are_those_of_floating_point_within_rounding) {
  RowMaker rows(9);
  int compared = 0;
  for (int round = 0; round < 400; round++) {
    const size_t vocab = 2 + rows.below(60);
    const auto logits = rows.logits(vocab);
    const Filters f = rows.filters(vocab);
    const float best = *std::ranges::max_element(logits);
    std::vector<size_t> order(vocab);
    std::iota(order.begin(), order.end(), size_t{0});
    std::ranges::stable_sort(order, [&](size_t a, size_t b) { return logits[a] > logits[b]; });
    // The definitions that were used before, in float64; where they are undecided, so may we be.
    const auto share = [&](size_t i) {
      return std::exp((static_cast<double>(logits[i]) - best) / f.temperature);
    };
    bool undecided = false;
    std::vector<int32_t> kept;
    double total = 0, sum = 0;
    for (const size_t i : order) {
      undecided |= std::fabs(share(i) - static_cast<double>(f.min_p)) < 1e-6 * share(i);
      undecided |= share(i) > 0 && share(i) < 0x1p-39;
      if (share(i) >= static_cast<double>(f.min_p) && share(i) > 0x1p-40 &&
          (f.top_k == 0 || kept.size() < f.top_k))
        kept.push_back(static_cast<int32_t>(i)), total += share(i);
    }
    size_t count = 0;
    for (; f.top_p < 1 && count < kept.size() && sum < static_cast<double>(f.top_p) * total; count++) {
      sum += share(static_cast<size_t>(kept[count]));
      undecided |= std::fabs(sum - static_cast<double>(f.top_p) * total) < 1e-5 * total;
    }
    if (f.top_p < 1) kept.resize(count);
    if (undecided) continue;
    std::vector<int32_t> left;
    for (const Token& t : drawn_from(Row(logits, f).row)) left.push_back(t.id);
    std::ranges::sort(kept);
    BOOST_TEST_CONTEXT("round " << round << ", " << f)
    BOOST_TEST_REQUIRE(left == kept, boost::test_tools::per_element());
    compared++;
  }
  BOOST_TEST(compared > 150);
}

BOOST_AUTO_TEST_CASE(the_first_tokens_come_as_they_rank_whether_they_have_masses_or_not) {
  RowMaker rows(11);
  for (int round = 0; round < 100; round++) {
    const auto logits = rows.logits(1 + rows.below(round % 2 ? 30 : 5000));
    Row tested(logits, {});
    std::vector<int32_t> order(logits.size());
    std::iota(order.begin(), order.end(), 0);
    std::ranges::stable_sort(order, [&](int32_t a, int32_t b) {
      return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
    });
    order.resize(std::min<size_t>(20, order.size()));
    BOOST_TEST(tested.row.ranked(20) == order, boost::test_tools::per_element());
  }
}
