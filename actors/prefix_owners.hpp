#pragma once
// PrefixOwners: which replica had prompts that begin so last, and may have their beginning in its KV blocks
// still. A guess: who errs computes it again. The router's; bounded, the longest unused go first.

#include <capnp/list.h>

#include <cstdint>
#include <list>
#include <string>
#include <string_view>
#include <unordered_map>

namespace convoy::actors {

class PrefixOwners {
 public:
  static constexpr size_t entries_max = 4096;

  /// Of prompts of that model whose first KV block is the same and which may share it; 0: the prompt has none
  /// that is full. What two different ones with the same number cost is a worse choice.
  static uint64_t key_of(std::string_view model, std::string_view salt,
                         const capnp::List<int32_t>::Reader& prompt);

  /// Empty if nobody is known. Counts as a use.
  std::string find(uint64_t key);
  void set(uint64_t key, const std::string& replica);
  size_t size() const { return by_key_.size(); }

 private:
  struct Entry {
    uint64_t key;
    std::string replica;
  };
  std::list<Entry> by_use_;  // the latest first
  std::unordered_map<uint64_t, std::list<Entry>::iterator> by_key_;
};

}  // namespace convoy::actors
