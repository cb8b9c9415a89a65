#include "gpu/mass_row.hpp"

#include <algorithm>
#include <cassert>
#include <numeric>

#include "gpu/cpu/vector_clones.hpp"

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

struct Block {
  Halvings least;
  uint64_t mass;
};
[[gnu::always_inline]] inline Block fill_block(const float* logits, int64_t count, float best, float scale,
                                               Halvings limit, Halvings* halvings) {
  Block block{halvings_none, 0};
  for (int64_t i = 0; i < count; i++) {
    const Halvings h = halvings_of(logits[i], best, scale);
    halvings[i] = h <= limit ? h : halvings_none;
    block.least = std::min(block.least, halvings[i]);
  }
  for (int64_t i = 0; i < count; i++) block.mass += mass_of(halvings[i]);
  return block;
}

CONVOY_VECTOR_CLONES
void fill_blocks(const float* logits, int64_t vocab, float best, float scale, Halvings limit,
                 Halvings* halvings, Halvings* least, uint64_t* masses) {
  const int64_t whole = vocab / block_tokens;
  const auto fill = [&](int64_t b, int64_t count) __attribute__((always_inline)) {
    const int64_t first = b * block_tokens;
    const Block block = fill_block(logits + first, count, best, scale, limit, halvings + first);
    least[b] = block.least, masses[b] = block.mass;
  };
  for (int64_t b = 0; b < whole; b++) fill(b, block_tokens);  // a constant, for the compiler's vectors
  if (const int64_t rest = vocab - whole * block_tokens; rest > 0) fill(whole, rest);
}

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
  limit_ = limit, gathered_ = false;
  fill_blocks(logits_, vocab_, best, scale, limit, halvings_, block_least_, block_masses_);
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
    for (int64_t i = b * block_tokens; i < std::min(vocab_, (b + 1) * block_tokens); i++) {
      const Halvings h = halvings_[i];
      ids_[left_] = static_cast<int32_t>(i), halvings_[left_] = h;
      left_ += h <= limit;
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
  if (!gathered_) gather(std::min(bound_of_first(count), limit_));
  if (count < left_) drop_behind(reaching(count, [](uint32_t) { return uint64_t{1}; }));
}

void MassRow::keep_share(float share) {
  const uint64_t all = total(), target = share_of(share, all);
  // All tokens with masses this small hold no more than what may be missing.
  if (!gathered_)
    gather(std::min(limit_, halvings_within((all - target) / static_cast<uint64_t>(vocab_) + 1)));
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
  while (pass(mass_of(halvings_[i]))) i++;
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
