// The ids of one sequence in a step, however many.

#include "gpu/token_ids.hpp"

#include <boost/test/unit_test.hpp>

using convoy::gpu::TokenIds;

namespace {

void same(const TokenIds& ids, const std::vector<int32_t>& expected) {
  BOOST_TEST(ids == expected, boost::test_tools::per_element());
  BOOST_TEST(ids.size() == expected.size());
  BOOST_TEST(ids.empty() == expected.empty());
  BOOST_TEST((ids == TokenIds(expected)));
  if (!expected.empty()) BOOST_TEST(ids.back() == expected.back());
}

}  // namespace

BOOST_AUTO_TEST_CASE(ids_are_the_same_however_they_were_put_together) {
  const std::vector<int32_t> none, one{7}, three{7, 8, -1};
  same({}, none);
  same(none, none);
  same({7}, one);
  same(one, one);
  same({7, 8, -1}, three);
  same(three, three);
  TokenIds ids;
  ids.append(none.begin(), none.end());
  same(ids, none);
  ids.append(one.begin(), one.end());
  same(ids, one);
  ids.append(none.begin(), none.end());
  same(ids, one);
  ids.append(three.begin() + 1, three.end());
  same(ids, three);
  ids = {5};
  same(ids, {5});
  ids.append(three.begin(), three.end());
  same(ids, {5, 7, 8, -1});
  BOOST_TEST((TokenIds({7}) != TokenIds({7, 8})));
}

BOOST_AUTO_TEST_CASE(a_copy_of_one_id_is_its_own) {
  TokenIds first{7};
  const TokenIds copy = first;
  first = {9};
  same(copy, {7});
  BOOST_TEST(copy.data() != first.data());
  BOOST_CHECK_THROW(copy.at(1), std::out_of_range);
}
