#pragma once
// KvCache: who holds which KV block of a pipeline's stages, and what can be found again of earlier sequences.
// All stages have the same blocks, so one cache counts for all. The scheduler owns it. Pure, without a clock.
//
// Nobody writes a full block again, so any number of sequences may hold it; what is not full has one holder,
// and nothing is ever copied between blocks. Where stages have a second tier, what a block held goes there
// before the block is used for something else, and comes back when it is asked for (docs/decisions/0023).
//
// A move is decided here and happens in every stage before the rows of the next step, in the order of the
// decisions. That alone makes it right: stages run steps in order, so a block that is saved was filled by an
// earlier step and is written again by this one's rows at the earliest; and a block that is loaded can be
// found at once, since whoever finds it reads it in this step's rows at the earliest.

#include <algorithm>
#include <boost/intrusive/list.hpp>
#include <cstdint>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "actors/schedule/block_keys.hpp"
#include "actors/schedule/kv_tier.hpp"
#include "gpu/step.hpp"

namespace convoy::actors {

/// The second tier of a pipeline's stages.
struct KvTierLimits {
  uint32_t places = 0;  // of one block each; 0: there is none
  /// That one step saves and loads at most, since it is so much longer for all of its rows. What would be
  /// saved beyond is forgotten; what would be loaded waits for the next step.
  uint32_t moves_per_step = 64;

  /// Of the blocks that are taken next, so many are saved before somebody wants them, a few with each step:
  /// a long prompt takes more at once than its step may save.
  uint32_t saved_ahead() const { return std::min(places, 4 * moves_per_step); }
  uint32_t saved_ahead_per_step() const { return std::max(1u, moves_per_step / 8); }
};

class KvCache {
 public:
  explicit KvCache(uint32_t blocks, const KvTierLimits& tier = {});
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;

  /// How many can be taken: that nobody holds.
  uint32_t free() const { return static_cast<uint32_t>(idle_.size()); }
  /// One of these, for the caller alone: an empty one, else the one that was let go first, whose content then
  /// is found in the second tier at most.
  uint32_t take();
  /// The block of that name, which the caller holds from now on.
  std::optional<uint32_t> find(const BlockKey& key);
  /// A full block that the caller holds can be found from now on, unless another one has that name.
  void publish(uint32_t block, const BlockKey& key);
  /// Whoever held it does so no more. A sequence lets go its last block first, so that the beginnings of
  /// prompts, which more sequences share, stay longest.
  void release(uint32_t block);

  /// Whether the second tier has the block of that name.
  bool kept(const BlockKey& key) const { return tier_.has(key); }
  /// The second tier shall keep it longer than others, if it has it: it will be asked for soon.
  void keep(const BlockKey& key) { tier_.find(key); }
  /// What the second tier keeps under that name, which find() does not find, comes into a block that the
  /// caller holds alone and that cannot be found yet; from now on it can. False: nothing is kept, or the next
  /// step has enough to move.
  bool load(uint32_t block, const BlockKey& key);
  /// Saves some of those that would be taken next.
  void save_ahead();
  /// What the next step has to move, in this order. Whoever takes them sees to it that it does.
  std::vector<gpu::BlockMove> take_moves() { return std::exchange(moves_, {}); }

  /// Blocks that can be found.
  uint32_t published() const { return static_cast<uint32_t>(published_.size()); }
  /// Blocks that were taken although they could have been found, and that the second tier does not keep.
  uint64_t forgotten() const { return forgotten_; }
  /// Who holds it, for tests and checks.
  uint32_t holders(uint32_t block) const { return blocks_[block].holders; }

 private:
  struct Block : boost::intrusive::list_base_hook<> {
    uint32_t holders = 0;
    bool published = false;
    BlockKey key;
  };
  bool save(const Block& block);

  std::vector<Block> blocks_;
  boost::intrusive::list<Block> idle_;  // that nobody holds, in the order in which they are taken
  std::unordered_map<BlockKey, uint32_t, BlockKey::Hash> published_;
  KvTier tier_;
  const KvTierLimits limits_;
  std::vector<gpu::BlockMove> moves_;
  uint64_t forgotten_ = 0;
};

}  // namespace convoy::actors
