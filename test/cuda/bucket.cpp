// How steps are gathered into buckets of launches.

#include "gpu/cuda/bucket.hpp"

#include <boost/test/unit_test.hpp>

using convoy::cuda::at_least;
using convoy::cuda::bucket_rows;
using convoy::cuda::cluster_of;
using convoy::cuda::ClusterRoom;
using convoy::cuda::Runs;
using convoy::cuda::runs_of;
using convoy::cuda::shares_of_row;

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

namespace {

/// Of multiprocessors in groups as an H200 has them, so many blocks on each.
ClusterRoom room_of(int blocks) {
  ClusterRoom room{};
  for (size_t size = 1; size < room.size(); size++)
    for (const int group : {18, 18, 18, 16, 16, 16, 16, 14})
      room[size] += group * blocks / static_cast<int>(size);
  return room;
}

}  // namespace

BOOST_AUTO_TEST_CASE(rows_are_shared_by_one_cluster_if_the_card_takes_all_at_once) {
  const ClusterRoom room = room_of(1);
  for (int64_t blocks = 1; blocks <= 300; blocks++)
    for (const int64_t longest : {1, 64, 97, 1025, 5000, 40000}) {
      const int shares = shares_of_row(blocks, 128, longest, room),
                cluster = cluster_of(blocks, shares, room);
      BOOST_REQUIRE(shares >= 1);
      BOOST_REQUIRE((shares == 1 || blocks * shares <= 128));
      BOOST_REQUIRE(shares % cluster == 0);
      // Not all that an idle card takes: the launch before still ends.
      BOOST_REQUIRE((cluster <= 2 || blocks * shares / cluster < room[static_cast<size_t>(cluster)]));
      if (longest <= 1025) BOOST_TEST_REQUIRE(cluster == shares, blocks << " blocks, " << longest);
    }
  BOOST_TEST(shares_of_row(1, 128, 1025, room) == 12);
  BOOST_TEST(shares_of_row(1, 128, 4000, room) == 12);
  BOOST_TEST(shares_of_row(1, 128, 60, room) == 1);
  BOOST_TEST(shares_of_row(16, 128, 1025, room) == 5);
  BOOST_TEST(shares_of_row(32, 128, 1025, room) == 3);
  BOOST_TEST(shares_of_row(64, 128, 1025, room) == 2);
  BOOST_TEST(shares_of_row(128, 128, 1025, room) == 1);
  BOOST_TEST(shares_of_row(256, 128, 1025, room) == 1);
}

BOOST_AUTO_TEST_CASE(several_clusters_share_what_is_long_for_one) {
  const ClusterRoom room = room_of(1);
  BOOST_TEST(shares_of_row(1, 128, 40000, room) == 64);
  BOOST_TEST(cluster_of(1, 64, room) == 8);
  BOOST_TEST(shares_of_row(4, 128, 40000, room) == 32);
}

BOOST_AUTO_TEST_CASE(without_clusters_blocks_join_through_memory) {
  const ClusterRoom none{};
  BOOST_TEST(shares_of_row(1, 256, 1025, none) == 16);
  BOOST_TEST(cluster_of(1, 16, none) == 1);
  BOOST_TEST(shares_of_row(1, 256, 90, none) == 1);
  BOOST_TEST(shares_of_row(128, 256, 1025, none) == 2);
  BOOST_TEST(shares_of_row(256, 256, 1025, none) == 1);
}
