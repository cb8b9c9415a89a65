#include "gpu/mass_row.hpp"

#include <algorithm>
#include <cassert>
#include <numeric>

#include "gpu/cpu/vector_clones.hpp"

#ifdef __x86_64__
#include <immintrin.h>
#endif

namespace convoy::gpu {
namespace {

/// Tokens of a block: few enough that the blocks' least halvings bound those of the first tokens well.
constexpr int64_t block_tokens = 32;

/// Digits of halvings that a search goes by, most significant first.
constexpr int digit_bits = 10, digits = 3;
constexpr int64_t digit_values = int64_t{1} << digit_bits;
static_assert(halvings_none >> (digits * digit_bits) == 0);
uint32_t digit_of(Halvings halvings, int digit) {
  return halvings >> ((digits - 1 - digit) * digit_bits) & (digit_values - 1);
}

CONVOY_VECTOR_CLONES
void fill_halvings(const float* logits, int64_t count, const Scale& scale, Halvings* halvings) {
  for (int64_t i = 0; i < count; i++) halvings[i] = scale.halvings(logits[i]);
}

struct Block {
  Halvings least;
  uint64_t mass;
};
[[gnu::always_inline]] inline Block block_of(const float* logits, int64_t count, const Scale& scale) {
  Halvings halvings[block_tokens];
  Block block{halvings_none, 0};
  for (int64_t i = 0; i < count; i++) {
    halvings[i] = scale.halvings(logits[i]);
    block.least = std::min(block.least, halvings[i]);
  }
  for (int64_t i = 0; i < count; i++) block.mass += mass_of(halvings[i]);
  return block;
}

CONVOY_VECTOR_CLONES
void fill_blocks(const float* logits, int64_t blocks, const Scale& scale, Halvings* least, uint64_t* masses) {
  for (int64_t b = 0; b < blocks; b++) {
    const Block block = block_of(logits + b * block_tokens, block_tokens, scale);
    least[b] = block.least, masses[b] = block.mass;
  }
}

#ifdef __x86_64__
/// mass_of of the lower half of each 64 bits. Written out because GCC 12 multiplies 64 by 64 bits with
/// AVX-512 where 32 by 32 are meant, which takes three times as long.
[[gnu::target("avx512f")]] inline __m512i masses_of_lower(__m512i halvings) {
  const __m512i g = _mm512_slli_epi32(halvings, 32 - halving_bits);
  const auto product = [g](__m512i c) __attribute__((always_inline, target("avx512f"))) {
    return _mm512_srli_epi64(_mm512_mul_epu32(g, c), 32);
  };
  __m512i c = _mm512_set1_epi32(power_c6);
#pragma GCC unroll 5
  for (const uint32_t next : {power_c5, power_c4, power_c3, power_c2, power_c1})
    c = _mm512_sub_epi32(_mm512_set1_epi32(static_cast<int32_t>(next)), product(c));
  const __m512i power = _mm512_sub_epi64(_mm512_set1_epi64(int64_t{1} << 32), product(c));
  const __m512i whole = _mm512_srli_epi64(_mm512_slli_epi64(halvings, 32), 32 + halving_bits);
  return _mm512_srlv_epi64(_mm512_slli_epi64(power, mass_bits - 32), whole);
}

[[gnu::target("avx512f")]] void fill_blocks_avx512(const float* logits, int64_t blocks, const Scale& scale,
                                                   Halvings* least, uint64_t* masses) {
  const __m512 best = _mm512_set1_ps(scale.best), factor = _mm512_set1_ps(scale.factor);
  const __m512i limit = _mm512_set1_epi32(static_cast<int32_t>(scale.limit));
  const __m512i none = _mm512_set1_epi32(static_cast<int32_t>(halvings_none));
  for (int64_t b = 0; b < blocks; b++) {
    __m512i first = none, mass = _mm512_setzero_si512();
#pragma GCC unroll 2
    for (int64_t i = 0; i < block_tokens; i += 16) {
      const __m512 logit = _mm512_loadu_ps(logits + b * block_tokens + i);
      const __m512 below = _mm512_mul_ps(_mm512_sub_ps(best, logit), factor);
      const __m512i h = _mm512_cvttps_epi32(_mm512_min_ps(below, _mm512_set1_ps(halvings_none)));
      const __m512i kept = _mm512_mask_mov_epi32(none, _mm512_cmple_epu32_mask(h, limit), h);
      first = _mm512_min_epu32(first, kept);
      mass = _mm512_add_epi64(mass, masses_of_lower(kept));
      mass = _mm512_add_epi64(mass, masses_of_lower(_mm512_srli_epi64(kept, 32)));
    }
    least[b] = _mm512_reduce_min_epu32(first);
    masses[b] = static_cast<uint64_t>(_mm512_reduce_add_epi64(mass));
  }
}
#endif

CONVOY_VECTOR_CLONES
void masses_of(const Halvings* halvings, int64_t count, uint64_t* masses) {
  for (int64_t i = 0; i < count; i++) masses[i] = mass_of(halvings[i]);
}

}  // namespace

void MassRow::each_array(int64_t vocab, auto&& use) {
  const int64_t blocks = (vocab + block_tokens - 1) / block_tokens;
  use(halvings_, vocab), use(block_least_, blocks), use(block_masses_, blocks);
  use(ids_, vocab), use(masses_, vocab), use(found_, vocab), use(buckets_, digit_values);
}

size_t MassRow::bytes(int64_t vocab) {
  size_t bytes = 0;
  MassRow({}, nullptr).each_array(vocab, [&]<class T>(T*&, int64_t count) {
    bytes += (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
  });
  return bytes;
}

MassRow::MassRow(std::span<const float> logits, std::byte* memory)
    : logits_(logits.data()), vocab_(static_cast<int64_t>(logits.size())) {
  assert(vocab_ <= mass_tokens_max);
  if (!memory) return;
  each_array(vocab_, [&]<class T>(T*& array, int64_t count) {
    array = reinterpret_cast<T*>(memory);
    memory += (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
  });
}

int64_t MassRow::blocks() const { return (vocab_ + block_tokens - 1) / block_tokens; }

void MassRow::fill(float best, float scale, Halvings limit) {
  assert(limit <= halvings_max);
  scale_ = {best, scale, limit}, gathered_ = false;
  const int64_t whole = vocab_ / block_tokens, rest = vocab_ - whole * block_tokens;
  (__builtin_cpu_supports("avx512f") ? fill_blocks_avx512 : fill_blocks)(logits_, whole, scale_, block_least_,
                                                                         block_masses_);
  if (rest == 0) return;
  const Block last = block_of(logits_ + whole * block_tokens, rest, scale_);
  block_least_[whole] = last.least, block_masses_[whole] = last.mass;
}

uint64_t MassRow::total() const {
  return gathered_ ? std::accumulate(masses_, masses_ + left_, uint64_t{0})
                   : std::accumulate(block_masses_, block_masses_ + blocks(), uint64_t{0});
}

/// At least `count` tokens have no more halvings than that, and few more do: so many blocks have one.
Halvings MassRow::bound_of_first(uint32_t count) const {
  if (count >= blocks()) return halvings_none;
  std::copy_n(block_least_, blocks(), found_);
  std::nth_element(found_, found_ + count - 1, found_ + blocks());
  return found_[count - 1];
}

void MassRow::gather(Halvings limit) {
  left_ = 0;
  for (int64_t b = 0; b < blocks(); b++) {
    if (block_least_[b] > limit) continue;
    const int64_t first = b * block_tokens, count = std::min(vocab_ - first, block_tokens);
    Halvings halvings[block_tokens];
    fill_halvings(logits_ + first, count, scale_, halvings);
    for (int64_t i = 0; i < count; i++) {
      ids_[left_] = static_cast<int32_t>(first + i), halvings_[left_] = halvings[i];
      left_ += halvings[i] <= limit;
    }
  }
  masses_of(halvings_, left_, masses_);
  gathered_ = true;
}

/// Which of the tokens that are left brings the sum of weights to `target`, taking them as they rank. Tokens
/// of equal halvings have equal weights. The sum of all is enough.
template <class Weight>
int64_t MassRow::reaching(uint64_t target, Weight weight) {
  int64_t found = 0;
  for (int digit = 0; digit < digits; digit++) {
    const auto each = [&](auto use) {
      if (digit == 0)
        for (int64_t i = 0; i < left_; i++) use(static_cast<uint32_t>(i));
      else
        for (int64_t i = 0, last = found; i < last; i++) use(found_[i]);
    };
    std::fill_n(buckets_, digit_values, 0);
    each([&](uint32_t i) { buckets_[digit_of(halvings_[i], digit)] += weight(i); });
    uint32_t bucket = 0;
    while (buckets_[bucket] < target) target -= buckets_[bucket++];
    int64_t kept = 0;
    each([&](uint32_t i) {
      if (digit_of(halvings_[i], digit) == bucket) found_[kept++] = i;
    });
    found = kept;
  }
  const uint64_t equal = weight(found_[0]);
  uint32_t* const last = found_ + (target + equal - 1) / equal - 1;
  std::nth_element(found_, last, found_ + found,
                   [this](uint32_t a, uint32_t b) { return ranks_before(ids_[a], ids_[b]); });
  return *last;
}

void MassRow::drop_behind(int64_t last) {
  const Halvings halvings = halvings_[last];
  const int32_t id = ids_[last];
  int64_t kept = 0;
  for (int64_t i = 0; i < left_; i++) {
    const bool behind = halvings_[i] > halvings || (halvings_[i] == halvings && ranks_before(id, ids_[i]));
    halvings_[kept] = halvings_[i], ids_[kept] = ids_[i], masses_[kept] = masses_[i];
    kept += !behind;
  }
  left_ = kept;
}

void MassRow::keep_first(uint32_t count) {
  if (!gathered_) gather(std::min(bound_of_first(count), scale_.limit));
  if (count < left_) drop_behind(reaching(count, [](uint32_t) { return uint64_t{1}; }));
}

void MassRow::keep_share(float share) {
  const uint64_t all = total(), target = share_of(share, all);
  // All tokens with masses this small hold no more than what may be missing.
  if (!gathered_)
    gather(std::min(scale_.limit, halvings_within((all - target) / static_cast<uint64_t>(vocab_) + 1)));
  drop_behind(reaching(target, [this](uint32_t i) { return masses_[i]; }));
}

int32_t MassRow::draw(uint64_t word) const {
  uint64_t left = drawn_unit(word, total());
  const auto pass = [&left](uint64_t mass) {
    const bool past = left >= mass;
    if (past) left -= mass;
    return past;
  };
  int64_t i = 0;
  if (gathered_) {
    while (pass(masses_[i])) i++;
    return ids_[i];
  }
  while (pass(block_masses_[i])) i++;
  i *= block_tokens;
  while (pass(mass_of(scale_.halvings(logits_[i])))) i++;
  return static_cast<int32_t>(i);
}

std::span<const int32_t> MassRow::ranked(uint32_t count) {
  gather(bound_of_first(count));
  const int64_t first = std::min<int64_t>(count, left_);
  std::partial_sort(ids_, ids_ + first, ids_ + left_,
                    [this](int32_t a, int32_t b) { return ranks_before(a, b); });
  return {ids_, static_cast<size_t>(first)};
}

}  // namespace convoy::gpu
