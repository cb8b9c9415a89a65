#pragma once
// FakeModel: what the simulated stages compute instead of a language model. A position's keys and values are
// its token and a hash of all that attention read to make them; a sampled token is a hash of all keys and
// values up to its position, of the seed and of how many were sampled before. So a wrong block, one that was
// given away too early, a position that was not written, or written with another token, changes the answer.

#include <cstdint>
#include <vector>

#include "gpu/kv_block.hpp"
#include "gpu/step.hpp"

namespace sim {

inline constexpr int32_t vocab = 256;

inline uint64_t mix(uint64_t a, uint64_t b) {
  uint64_t x = a * 0x9e3779b97f4a7c15 ^ b;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  return x ^ (x >> 29);
}

/// Keys and values of one position.
struct Cell {
  int32_t token = -1;
  uint64_t read = 0;  // hash of what attention read
};

// What a request wants of the model beside its answer travels as sampling parameters that the scheduler has
// no business with.
inline constexpr uint32_t likes_repeats = 1, may_fault = 2;  // bits of Sampling::top_k
inline constexpr uint64_t fault_every = 16, repeat_of_8 = 7;
inline constexpr int64_t repeat_period = 19;

/// Of all blocks before the one of a position. cells: what reads a position.
template <class Cells>
uint64_t read_before(const Cells& cells, int64_t position) {
  uint64_t h = 0;
  for (int64_t end = convoy::gpu::kv_block_tokens; end <= position; end += convoy::gpu::kv_block_tokens)
    h = mix(h, cells(end - 1).read);
  return h;
}

/// What a token brings into the first layer. Into each later one it brings what the one before read.
inline uint64_t input_of(int32_t token) { return static_cast<uint64_t>(token) + 1; }

template <class Cells>
Cell compute(const Cells& cells, int64_t position, int32_t token, uint64_t input) {
  const bool first = position % convoy::gpu::kv_block_tokens == 0;
  const uint64_t before = first ? read_before(cells, position) : cells(position - 1).read;
  return {token, mix(before, input)};
}
template <class Cells>
Cell compute(const Cells& cells, int64_t position, int32_t token) {
  return compute(cells, position, token, input_of(token));
}

/// Of a position's token to the penalties; their sum over all positions so far is what sampling reads.
inline uint64_t penalty_of(int32_t token, bool of_prompt) {
  return mix(static_cast<uint64_t>(token), of_prompt ? 2 : 3);
}

template <class Cells>
convoy::gpu::SampledToken sample(const Cells& cells, int64_t position, uint32_t prompt_tokens,
                                 const convoy::model::Sampling& sampling, uint64_t penalties) {
  const int64_t index = position + 1 - int64_t{prompt_tokens};
  uint64_t h = mix(read_before(cells, position), cells(position).read);
  h = mix(mix(h, sampling.seed), static_cast<uint64_t>(index));
  if (sampling.penalized()) h = mix(h, penalties);
  convoy::gpu::SampledToken sampled;
  if ((sampling.top_k & may_fault) && h % fault_every == 0) {
    sampled.fault = convoy::gpu::RowFault::not_finite;
    return sampled;
  }
  const bool repeats =
      (sampling.top_k & likes_repeats) && (h >> 8) % 8 < repeat_of_8 && position + 1 >= repeat_period;
  sampled.id = repeats ? cells(position + 1 - repeat_period).token : static_cast<int32_t>((h >> 16) % vocab);
  sampled.logprob = -static_cast<float>(h >> 40);
  return sampled;
}

/// A request that has the stages for itself. layers: each keeps cells of its own, whichever stage it is in; a
/// simulation that has them all at once keeps one.
class Alone {
 public:
  Alone(const std::vector<int32_t>& prompt, convoy::model::Sampling sampling, size_t layers = 1)
      : sampling_(std::move(sampling)), prompt_tokens_(static_cast<uint32_t>(prompt.size())), cells_(layers) {
    for (const int32_t token : prompt) feed(token);
  }

  /// Its next token, which it goes on with.
  convoy::gpu::SampledToken next() {
    const auto last = static_cast<int64_t>(cells_.back().size()) - 1;
    auto sampled = sample(Reader{cells_.back()}, last, prompt_tokens_, sampling_, penalties_);
    if (sampled.fault == convoy::gpu::RowFault::none) feed(sampled.id);
    return sampled;
  }

 private:
  struct Reader {
    const std::vector<Cell>& cells;
    const Cell& operator()(int64_t position) const { return cells[static_cast<size_t>(position)]; }
  };
  void feed(int32_t token) {
    const auto position = static_cast<int64_t>(cells_.back().size());
    uint64_t input = input_of(token);
    for (std::vector<Cell>& layer : cells_) {
      layer.push_back(compute(Reader{layer}, position, token, input));
      input = layer.back().read;
    }
    penalties_ += penalty_of(token, position < prompt_tokens_);
  }

  convoy::model::Sampling sampling_;
  uint32_t prompt_tokens_;
  std::vector<std::vector<Cell>> cells_;  // of each layer
  uint64_t penalties_ = 0;
};

}  // namespace sim
