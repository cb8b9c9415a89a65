#pragma once
// MassRow: the masses of one row of logits (gpu/sampling_mass.hpp), and which tokens filters leave of them.
// The sampler fills it, filters, draws; in memory that it is given, on any one thread. Tokens rank by logit
// and then by the lower id, and nothing that is found depends on the order in which it is searched.

#include <cstddef>
#include <cstdint>
#include <span>

#include "gpu/sampling_mass.hpp"

namespace convoy::gpu {

/// How logits become halvings: the largest logit, halvings_scale of the temperature, and the most halvings
/// that leave a token in.
struct Scale {
  float best = 0, factor = 0;
  Halvings limit = 0;

  [[gnu::always_inline]] Halvings halvings(float logit) const {
    const Halvings h = halvings_of(logit, best, factor);
    return h <= limit ? h : halvings_none;
  }
};

class MassRow {
 public:
  /// Of memory that a row needs.
  static size_t bytes(int64_t vocab);
  /// The memory is aligned to 64 bytes; it and the logits outlive this.
  MassRow(std::span<const float> logits, std::byte* memory);

  /// The masses of all tokens with no more halvings than `limit`, at most halvings_max; others are out. best:
  /// the largest logit.
  void fill(float best, float scale, Halvings limit = halvings_max);
  /// Of the tokens that are left.
  uint64_t total() const;
  /// Leaves the `count` tokens that rank first, or all if they are fewer.
  void keep_first(uint32_t count);
  /// Leaves the tokens that rank first: as few as hold `share` of the mass, which is in (0, 1).
  void keep_share(float share);
  /// The first token in the order of ids with which the masses exceed the word's share of the total.
  int32_t draw(uint64_t word) const;

  /// The `count` tokens of the row that rank first, in that order, whether they have masses or not. Ends the
  /// row.
  std::span<const int32_t> ranked(uint32_t count);

 private:
  /// Calls use(array, values) for each of the arrays below.
  void each_array(int64_t vocab, auto&& use);
  int64_t blocks() const;
  Halvings bound_of_first(uint32_t count) const;
  void gather(Halvings limit);
  template <class Weight>
  int64_t reaching(uint64_t target, Weight weight);
  void drop_behind(int64_t last);
  bool ranks_before(int32_t a, int32_t b) const {
    return logits_[a] != logits_[b] ? logits_[a] > logits_[b] : a < b;
  }

  const float* logits_;
  int64_t vocab_;
  Scale scale_;
  // Of each block of tokens the least halvings and the sum of the masses.
  Halvings* block_least_ = nullptr;
  uint64_t* block_masses_ = nullptr;
  // Once gathered, of the tokens that are left, in the order of their ids; the blocks are out of date then.
  bool gathered_ = false;
  int64_t left_ = 0;
  Halvings* halvings_ = nullptr;
  int32_t* ids_ = nullptr;
  uint64_t* masses_ = nullptr;
  // While searching.
  uint32_t* found_ = nullptr;  // indices of tokens that are left; or blocks' least
  uint64_t* buckets_ = nullptr;
};

}  // namespace convoy::gpu
