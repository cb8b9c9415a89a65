#pragma once
// KvCache: who holds which KV block of a pipeline's stages, and what can be found again of earlier sequences.
// All stages have the same blocks, so one cache counts for all. The scheduler owns it. Pure, without a clock.
//
// A full block is named by a chain of keyed hashes over all tokens up to its end, from a root of whoever may
// find it: who does not know the secret can neither construct two prompts with one name nor find what another
// root's sequences left. Nobody writes a full block again, so any number of sequences may hold it; what is
// not full has one holder, and nothing is ever copied.

#include <boost/intrusive/list.hpp>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace convoy::actors {

/// Names the tokens of a block and of all before it: 128 bits of an HMAC-SHA-256.
struct BlockKey {
  uint64_t high = 0, low = 0;
  bool operator==(const BlockKey&) const = default;
  struct Hash {
    size_t operator()(const BlockKey& key) const { return key.low; }
  };
};

/// Makes names.
class BlockKeys {
 public:
  explicit BlockKeys(std::string secret) : secret_(std::move(secret)) {}
  /// salt: who may find what follows.
  BlockKey root(std::string_view salt) const;
  /// tokens: of one block, behind those that `before` names.
  BlockKey next(const BlockKey& before, std::span<const int32_t> tokens) const;

 private:
  std::string secret_;
};

class KvCache {
 public:
  explicit KvCache(uint32_t blocks);
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;

  /// How many can be taken: that nobody holds.
  uint32_t free() const { return static_cast<uint32_t>(idle_.size()); }
  /// One of these, for the caller alone: an empty one, else the one that was let go first, whose content then
  /// is found no more.
  uint32_t take();
  /// The block of that name, which the caller holds from now on.
  std::optional<uint32_t> find(const BlockKey& key);
  /// A full block that the caller holds can be found from now on, unless another one has that name.
  void publish(uint32_t block, const BlockKey& key);
  /// Whoever held it does so no more. A sequence lets go its last block first, so that the beginnings of
  /// prompts, which more sequences share, stay longest.
  void release(uint32_t block);

  /// Blocks that can be found.
  uint32_t published() const { return static_cast<uint32_t>(published_.size()); }
  /// Blocks that were taken although they could have been found.
  uint64_t forgotten() const { return forgotten_; }
  /// Who holds it, for tests and checks.
  uint32_t holders(uint32_t block) const { return blocks_[block].holders; }

 private:
  struct Block : boost::intrusive::list_base_hook<> {
    uint32_t holders = 0;
    bool published = false;
    BlockKey key;
  };
  std::vector<Block> blocks_;
  boost::intrusive::list<Block> idle_;  // that nobody holds, in the order in which they are taken
  std::unordered_map<BlockKey, uint32_t, BlockKey::Hash> published_;
  uint64_t forgotten_ = 0;
};

}  // namespace convoy::actors
