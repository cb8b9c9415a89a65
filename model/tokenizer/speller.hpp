#pragma once
// What a word is before any two of its symbols merge: a token for each byte, or for each character. Used by
// the tokenizer alone; immutable, any thread.

#include <array>
#include <boost/unordered/unordered_flat_map.hpp>
#include <cstdint>
#include <string_view>
#include <vector>

#include "model/tokenizer/vocabulary.hpp"

namespace convoy::model {

class Speller {
 public:
  /// Throws InputError if the token for unknown characters is not in the vocabulary.
  Speller(const TokenizerParts& parts, const Vocabulary& vocabulary);

  /// Sets `symbols` to those of `word`. What has no token is left out, as the reference does.
  void spell(std::string_view word, std::vector<int32_t>& symbols) const;
  /// Whether text may be left out, or one token stand for any length of it.
  bool is_lossy() const { return lossy_; }
  int32_t unknown() const { return unknown_; }
  /// A character that has no token of its own, but may become part of one: a symbol for it, and what it is if
  /// it does not.
  void stand_in(char32_t character, int32_t symbol) { characters_.emplace(character, symbol); }
  /// What one character becomes by itself, without a token of its own.
  std::vector<int32_t> spell_unknown(std::string_view character) const;

 private:
  void spell_bytes(std::string_view word, std::vector<int32_t>& symbols) const;
  bool fall_back(std::string_view character, std::vector<int32_t>& symbols) const;

  Alphabet alphabet_;
  std::array<int32_t, 256> bytes_;  // -1: no token
  boost::unordered_flat_map<char32_t, int32_t> characters_;
  bool byte_fallback_, fuse_unknown_, lossy_ = false;
  int32_t unknown_ = -1;
};

}  // namespace convoy::model
