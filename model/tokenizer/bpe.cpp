#include "model/tokenizer/bpe.hpp"

#include <array>
#include <cassert>
#include <queue>
#include <tuple>

namespace convoy::model {
namespace {

// Up to here looking at every pair for each merge is faster than a heap.
constexpr size_t few_symbols = 48;
// A word may have megabytes: whether anybody still waits for it is looked at once in so many of its pairs.
constexpr size_t pairs_between_looks = 4096;

}  // namespace

Bpe::Bpe(std::span<const Merge> merges) {
  ranks_.reserve(merges.size());
  for (const Merge& merge : merges) {
    assert(merge.rank < no_rank);
    const bool fresh = ranks_.emplace(pair(merge.left, merge.right), Ranked{merge.rank, merge.result}).second;
    assert(fresh && "the reader refuses duplicate merges");
    (void)fresh;
  }
}

void Bpe::merge(std::vector<int32_t>& symbols, const std::stop_token& stop) const {
  if (symbols.size() <= few_symbols) {
    merge_few(symbols);
  } else {
    merge_many(symbols, stop);
  }
}

void Bpe::merge_few(std::vector<int32_t>& symbols) const {
  std::array<Ranked, few_symbols> merges;  // merges[i]: of symbols i and i + 1
  size_t count = symbols.size();
  for (size_t i = 0; i + 1 < count; ++i) merges[i] = rank(symbols[i], symbols[i + 1]);
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i) {
      if (merges[i].rank < merges[best].rank) best = i;
    }
    if (merges[best].rank == no_rank) break;
    symbols[best] = merges[best].result;
    --count;
    for (size_t i = best + 1; i < count; ++i) {
      symbols[i] = symbols[i + 1];
      merges[i - 1] = merges[i];
    }
    if (best > 0) merges[best - 1] = rank(symbols[best - 1], symbols[best]);
    if (best + 1 < count) merges[best] = rank(symbols[best], symbols[best + 1]);
  }
  symbols.resize(count);
}

void Bpe::merge_many(std::vector<int32_t>& ids, const std::stop_token& stop) const {
  struct Symbol {
    int32_t id;
    Ranked merge;  // with the next symbol
    size_t previous, next;
  };
  constexpr size_t none = SIZE_MAX;
  std::vector<Symbol> symbols;
  symbols.reserve(ids.size());
  for (const int32_t id : ids) symbols.push_back({id, {no_rank, -1}, symbols.size() - 1, symbols.size() + 1});
  symbols.front().previous = none;
  symbols.back().next = none;

  // Best rank first, and among equals the leftmost. Entries whose pair has changed since are skipped.
  using Candidate = std::tuple<int32_t, size_t>;
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> candidates;
  auto consider = [&](size_t at) {
    Symbol& s = symbols[at];
    s.merge = s.next == none ? Ranked{no_rank, -1} : rank(s.id, symbols[s.next].id);
    if (s.merge.rank != no_rank) candidates.emplace(s.merge.rank, at);
  };
  size_t pairs = 0;
  const auto unwanted = [&] { return ++pairs % pairs_between_looks == 0 && stop.stop_requested(); };
  for (size_t i = 0; i < symbols.size(); ++i) {
    if (unwanted()) return ids.clear();
    consider(i);
  }
  while (!candidates.empty()) {
    if (unwanted()) return ids.clear();
    const auto [rank, at] = candidates.top();
    candidates.pop();
    Symbol& s = symbols[at];
    if (s.id < 0 || s.merge.rank != rank) continue;
    Symbol& absorbed = symbols[s.next];
    s.id = s.merge.result;
    s.next = absorbed.next;
    absorbed.id = -1;
    if (s.next != none) symbols[s.next].previous = at;
    consider(at);
    if (s.previous != none) consider(s.previous);
  }
  ids.clear();
  for (size_t at = 0; at != none; at = symbols[at].next) ids.push_back(symbols[at].id);
}

}  // namespace convoy::model
