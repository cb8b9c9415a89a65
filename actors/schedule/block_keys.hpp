#pragma once
// BlockKeys: names for full KV blocks, by a chain of keyed hashes over all tokens up to a block's end, from a
// root of whoever may find it: who does not know the secret can neither construct two prompts with one name
// nor find what another root's sequences left. Pure.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

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

}  // namespace convoy::actors
