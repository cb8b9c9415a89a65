#include "gpu/token_counts.hpp"

#include <boost/test/unit_test.hpp>
#include <map>
#include <random>

using namespace convoy::gpu;

BOOST_AUTO_TEST_CASE(counts_follow_tokens_as_they_come_and_go) {
  const uint32_t seed = std::random_device{}();
  BOOST_TEST_MESSAGE("seed " << seed);
  std::mt19937 random(seed);
  for (const uint32_t ids : {5, 3000}) {
    TokenCounts counts;
    std::map<int32_t, std::pair<uint32_t, uint32_t>> expected;
    std::vector<std::pair<int32_t, TokenCounts::Of>> history;
    for (int i = 0; i < 20'000; i++) {
      if (history.empty() || random() % 3) {
        const auto id = static_cast<int32_t>(random() % ids * 16);  // as far apart as hashes dislike
        const auto of = random() % 2 ? TokenCounts::Of::prompt : TokenCounts::Of::output;
        history.emplace_back(id, of);
        counts.add(id, of);
        (of == TokenCounts::Of::prompt ? expected[id].first : expected[id].second)++;
      } else {
        const auto [id, of] = history.back();
        history.pop_back();
        counts.remove(id, of);
        (of == TokenCounts::Of::prompt ? expected[id].first : expected[id].second)--;
      }
    }
    BOOST_TEST(counts.counts().size() == expected.size());
    for (const TokenCounts::Count& count : counts.counts()) {
      BOOST_TEST_REQUIRE(count.prompt == expected.at(count.id).first);
      BOOST_TEST_REQUIRE(count.output == expected.at(count.id).second);
    }
  }
}
