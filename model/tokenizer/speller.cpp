#include "model/tokenizer/speller.hpp"

#include <algorithm>

#include "model/error.hpp"
#include "model/json.hpp"
#include "model/utf8.hpp"

namespace convoy::model {

Speller::Speller(const TokenizerParts& parts, const Vocabulary& vocabulary)
    : alphabet_(parts.alphabet), byte_fallback_(parts.byte_fallback), fuse_unknown_(parts.fuse_unknown) {
  const auto check_plain = [&](int32_t id, const std::string& token) {
    if (id >= 0 && vocabulary.kind(id) != TokenKind::text)
      throw InputError("any text would become the added token " + in_quotes(token), parts.where,
                       "take it out of the added tokens");
  };
  const auto characters = byte_characters();
  for (size_t b = 0; b < 256; ++b) {
    std::string token;
    if (alphabet_ == Alphabet::sentencepiece) {
      token = byte_piece(static_cast<uint8_t>(b));
    } else {
      append_utf8(characters[b], token);
    }
    bytes_[b] = vocabulary.id_of(token).value_or(-1);
    lossy_ = lossy_ || (is_in_utf8(static_cast<uint8_t>(b)) && bytes_[b] < 0);
    if (is_in_utf8(static_cast<uint8_t>(b))) check_plain(bytes_[b], token);
  }
  if (alphabet_ == Alphabet::byte_level) return;
  lossy_ = lossy_ || !byte_fallback_;
  for (const auto& [token, id] : parts.vocabulary) {
    const Utf8Character c = character_at(token, 0);
    if (c.bytes != token.size()) continue;
    check_plain(id, token);
    characters_.emplace(c.value, id);
  }
  if (!parts.unknown) return;
  const auto unknown = vocabulary.id_of(*parts.unknown);
  if (!unknown)
    throw InputError(
        "the token for unknown characters, " + in_quotes(*parts.unknown) + ", is not in the vocabulary",
        parts.where, "check that the file is whole");
  unknown_ = *unknown;
}

void Speller::spell(std::string_view word, std::vector<int32_t>& symbols) const {
  symbols.clear();
  if (alphabet_ == Alphabet::byte_level) return spell_bytes(word, symbols);
  bool pending = false;  // an unknown character: bytes that follow it come first, as the reference has it
  const auto flush = [&] {
    if (pending && unknown_ >= 0) symbols.push_back(unknown_);
    pending = false;
  };
  for (size_t at = 0; at < word.size();) {
    const Utf8Character c = character_at(word, at);
    if (const auto found = characters_.find(c.value); found != characters_.end()) {
      flush();
      symbols.push_back(found->second);
    } else if (!fall_back(word.substr(at, c.bytes), symbols)) {
      if (!fuse_unknown_) flush();
      pending = true;
    }
    at += c.bytes;
  }
  flush();
}

std::vector<int32_t> Speller::spell_unknown(std::string_view character) const {
  std::vector<int32_t> symbols;
  if (!fall_back(character, symbols) && unknown_ >= 0) symbols.push_back(unknown_);
  return symbols;
}

void Speller::spell_bytes(std::string_view word, std::vector<int32_t>& symbols) const {
  for (const char c : word)
    if (const int32_t id = bytes_[static_cast<uint8_t>(c)]; id >= 0) symbols.push_back(id);
}

bool Speller::fall_back(std::string_view character, std::vector<int32_t>& symbols) const {
  const auto id = [&](char c) { return bytes_[static_cast<uint8_t>(c)]; };
  if (!byte_fallback_ || !std::ranges::all_of(character, [&](char c) { return id(c) >= 0; })) return false;
  for (const char c : character) symbols.push_back(id(c));
  return true;
}

}  // namespace convoy::model
