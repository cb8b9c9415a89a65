#include "model/tokenizer/vocabulary.hpp"

#include "model/error.hpp"
#include "model/json.hpp"
#include "model/utf8.hpp"

namespace convoy::model {

Vocabulary::Vocabulary(const TokenizerParts& parts, const Normalizer& normalizer) : where_(parts.where) {
  if (parts.vocabulary.empty()) fail("the vocabulary is empty");
  ids_.reserve(parts.vocabulary.size() + parts.added.size());
  for (const auto& [text, id] : parts.vocabulary) {
    check_text(text, id, "token");
    place(id, text, token_bytes(parts.alphabet, text), TokenKind::text);
  }
  for (const AddedToken& token : parts.added) {
    check_text(token.content, token.id, "added token");
    add(token, parts.alphabet, normalizer);
  }
}

void Vocabulary::fail(const std::string& what) const {
  throw InputError(what, where_, "check that the file is whole and a tokenizer");
}

void Vocabulary::check_text(const std::string& text, int32_t id, std::string_view what) const {
  const std::string name = "the " + std::string(what) + ' ' + std::to_string(id);
  if (text.empty()) fail(name + " is empty");
  if (find_invalid_utf8(text) != text.npos) fail(name + " is not UTF-8");
}

void Vocabulary::add(const AddedToken& token, Alphabet alphabet, const Normalizer& normalizer) {
  const TokenKind kind = token.special ? TokenKind::control : TokenKind::added;
  const std::optional<int32_t> known = id_of(token.content);
  const std::string shown = token.normalized ? normalizer.apply(token.content) : token.content;
  // ÿ stands for itself: no text has the byte that it writes.
  const bool letter = alphabet == Alphabet::byte_level && is_lone_byte(shown);
  std::string bytes = letter ? shown : token_bytes(alphabet, shown);
  if (!known) {
    place(token.id, token.content, std::move(bytes), kind);
    return;
  }
  const size_t at = index(*known);
  if (*known != token.id || kinds_[at] != TokenKind::text)
    fail("the added token " + in_quotes(token.content) + " stands twice, with ids " + std::to_string(*known) +
         " and " + std::to_string(token.id));
  if (!token.anywhere) kinds_[at] = kind;
  bytes_[at] = std::move(bytes);
}

void Vocabulary::place(int32_t id, const std::string& text, std::string bytes, TokenKind kind) {
  if (id < 0 || id >= token_ids_max) {
    fail("the token " + in_quotes(text) + " has id " + std::to_string(id) + ", which is not in 0.." +
         std::to_string(token_ids_max - 1));
  }
  const size_t at = index(id);
  if (at >= bytes_.size()) {
    bytes_.resize(at + 1);
    kinds_.resize(at + 1, TokenKind::none);
  }
  if (kinds_[at] != TokenKind::none)
    fail("two tokens have id " + std::to_string(id) + ", one is " + in_quotes(text));
  if (!ids_.emplace(text, id).second) fail("the token " + in_quotes(text) + " stands twice");
  bytes_[at] = std::move(bytes);
  kinds_[at] = kind;
}

}  // namespace convoy::model
