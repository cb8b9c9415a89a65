#pragma once
// TokenCounts: how often each token occurs in a sequence's prompt and in its output, for penalties. Kept up
// to date as tokens come and go, so that a step's cost is of its own tokens, not of the history. A device
// owns one for each sequence that is penalised; samplers read it, on any thread, while nobody writes.

#include <cstdint>
#include <span>
#include <vector>

namespace convoy::gpu {

class TokenCounts {
 public:
  struct Count {
    int32_t id = 0;
    uint32_t prompt = 0, output = 0;  // both 0: all that came have gone
  };
  enum class Of : uint8_t { prompt, output };

  void add(int32_t id, Of part);
  /// One that was added.
  void remove(int32_t id, Of part);
  /// Each token once, in no particular order.
  std::span<const Count> counts() const { return counts_; }

 private:
  Count& count_of(int32_t id);
  void grow();

  std::vector<Count> counts_;
  // A hash table with open addressing: index + 1 into counts_, 0 where free. A power of two, at most half
  // full.
  std::vector<uint32_t> places_;
};

}  // namespace convoy::gpu
