// How steps are gathered into buckets of launches.

#include "gpu/cuda/bucket.hpp"

#include <boost/test/unit_test.hpp>

using convoy::cuda::at_least;
using convoy::cuda::bucket_rows;
using convoy::cuda::Runs;
using convoy::cuda::runs_of;

BOOST_AUTO_TEST_CASE(a_bucket_holds_its_steps_and_wastes_little) {
  constexpr int64_t limit = 5000;
  int last = 0, buckets = 0;
  for (int64_t rows = 1; rows <= limit; rows++) {
    const int bucket = bucket_rows(rows, limit);
    BOOST_REQUIRE(bucket >= rows);
    BOOST_REQUIRE(bucket >= last);
    // Half is wasted at most, a fifth where rows cost.
    BOOST_REQUIRE(rows <= 64 ? bucket < 2 * rows : bucket * 4 < rows * 5);
    BOOST_REQUIRE(bucket_rows(bucket, limit) == bucket);
    buckets += bucket != last;
    last = bucket;
  }
  BOOST_TEST(buckets == 7 + 4 * 6 + 1);  // to 64, six doublings to 4096, and a part of one
  BOOST_TEST(last == limit);
}

BOOST_AUTO_TEST_CASE(buckets_of_few_rows_are_powers_of_two) {
  for (const auto& [rows, bucket] : {std::pair{1, 1},
                                     {2, 2},
                                     {3, 4},
                                     {5, 8},
                                     {33, 64},
                                     {64, 64},
                                     {65, 80},
                                     {129, 160},
                                     {512, 512},
                                     {544, 640},
                                     {1304, 1536}})
    BOOST_TEST(bucket_rows(rows, 1 << 20) == bucket, rows);
  BOOST_TEST(bucket_rows(600, 700) == 640);
  BOOST_TEST(bucket_rows(650, 700) == 700);
  BOOST_TEST(at_least(5, 64) == 8);
  BOOST_TEST(at_least(33, 40) == 40);
}

BOOST_AUTO_TEST_CASE(decodes_have_launches_of_their_own) {
  BOOST_TEST((runs_of(1) == Runs::one));
  BOOST_TEST((runs_of(2) == Runs::few));
  BOOST_TEST((runs_of(8) == Runs::few));
  BOOST_TEST((runs_of(9) == Runs::many));
}
