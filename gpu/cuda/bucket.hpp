#pragma once
// Which launches a step gets: those of its bucket, so that they can be captured once and replayed.

#include <algorithm>
#include <array>
#include <bit>
#include <compare>
#include <cstdint>

namespace convoy::cuda {

/// How many rows a sequence brings at most.
enum class Runs : uint8_t { one, few, many };
/// Of more rows of a sequence a block of attention takes several.
inline constexpr int64_t few_rows_max = 8;
constexpr Runs runs_of(int64_t longest_run) {
  return longest_run <= 1 ? Runs::one : longest_run <= few_rows_max ? Runs::few : Runs::many;
}

/// What steps of a kind have at most.
struct Bucket {
  int rows = 0, sampled = 0;
  int parts = 1;  // of attention: 1: a block walks over all of a row's positions
  Runs runs = Runs::few;
  auto operator<=>(const Bucket&) const = default;
};

/// What decides about a step's bucket.
struct StepSize {
  int64_t rows = 0, sampled = 0;
  int64_t longest = 0, longest_run = 0;  // positions, and rows, of a sequence
};

/// A power of two, or less where that is the limit. count ≥ 1.
constexpr int at_least(int64_t count, int64_t limit) {
  return static_cast<int>(std::min(static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(count))), limit));
}

/// The rows of a bucket: powers of two, and above 64 quarters of these too: of many rows each costs. count
/// ≥ 1.
constexpr int bucket_rows(int64_t count, int64_t limit) {
  constexpr int64_t coarse_max = 64, steps = 4;
  const auto power = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(count)));
  const int64_t step = power <= coarse_max ? power : power / 2 / steps;
  return static_cast<int>(std::min((count + step - 1) / step * step, limit));
}

/// Attention on tensor cores: the most blocks that share a row's positions, and that there are where rows are
/// shared; half as many where one fills a multiprocessor's shared memory.
inline constexpr int shares_max = 64, shared_blocks_max = 256;
/// The most of them that join in one cluster: more would wait until nearly all of a group of multiprocessors
/// is free. And how many clusters of each size a card takes at once: one that has to wait for another takes
/// as long again. All 0: it knows no clusters.
inline constexpr int cluster_max = 12;
using ClusterRoom = std::array<int, cluster_max + 1>;
/// The fewest positions that are worth a block, and so many that they are worth the way through memory by
/// which several clusters join.
inline constexpr int64_t share_tokens_min = 96, share_tokens_max = 1024;

/// Whether so many clusters of a size find room at once while the launch before still ends: pairs do, and of
/// larger ones that an idle card takes a sixth stays free.
constexpr bool finds_room(int64_t clusters, int size, const ClusterRoom& room) {
  const int64_t most = room[static_cast<size_t>(size)];
  return size <= 2 ? clusters <= most : clusters * 6 <= most * 5;
}

/// How many blocks share a row's positions: as many as one cluster has of which the card takes every row's at
/// once; more where these would be long at it, or there are none. `blocks`: of all rows, if none are shared;
/// `blocks_max`: that there may be.
constexpr int shares_of_row(int64_t blocks, int64_t blocks_max, int64_t longest, const ClusterRoom& room) {
  const int64_t most = std::max<int64_t>(blocks_max / blocks, 1);
  int in_cluster = static_cast<int>(std::min<int64_t>(most, cluster_max));
  while (in_cluster > 1 && !finds_room(blocks, in_cluster, room)) in_cluster--;
  const auto wanted = [longest](int64_t tokens) { return (longest + tokens - 1) / tokens; };
  const int64_t apart = wanted(room[1] > 0 ? share_tokens_max : share_tokens_min);
  if (apart > in_cluster && most > in_cluster) {
    const auto limit = static_cast<uint64_t>(std::min<int64_t>(most, shares_max));
    return at_least(apart, static_cast<int64_t>(std::bit_floor(limit)));
  }
  return at_least(std::max<int64_t>(wanted(share_tokens_min), 1), in_cluster);
}

/// How many of the blocks that share a row's positions join in one cluster: all, or a power of two of them,
/// as many as leave none waiting.
constexpr int cluster_of(int64_t blocks, int shares, const ClusterRoom& room) {
  const auto fits = [&](int size) { return finds_room(blocks * shares / size, size, room); };
  if (shares <= cluster_max && fits(shares)) return shares;
  int size = static_cast<int>(std::bit_floor(static_cast<unsigned>(std::min(shares, cluster_max))));
  while (size > 1 && (shares % size != 0 || !fits(size))) size /= 2;
  return size;
}

}  // namespace convoy::cuda
