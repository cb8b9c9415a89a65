#pragma once
// The tokens of a tokenizer: their ids, texts, bytes and kinds. Used by the tokenizer alone; immutable after
// loading, any thread.

#include <boost/unordered/unordered_flat_map.hpp>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/tokenizer/tokenizer_parts.hpp"

namespace convoy::model {

/// Finds by string_view without a copy.
struct TextHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};
template <typename T>
using TextMap = boost::unordered_flat_map<std::string, T, TextHash, std::equal_to<>>;

enum class TokenKind : uint8_t { none, text, added, control };

class Vocabulary {
 public:
  /// Throws InputError for ids and texts that stand twice or cannot be.
  Vocabulary(const TokenizerParts& parts, const Normalizer& normalizer);

  int32_t size() const { return static_cast<int32_t>(bytes_.size()); }
  /// Both take any id: outside there are no bytes.
  std::string_view bytes(int32_t id) const { return has(id) ? std::string_view(bytes_[index(id)]) : ""; }
  TokenKind kind(int32_t id) const { return has(id) ? kinds_[index(id)] : TokenKind::none; }
  /// By its text, as the file writes it.
  std::optional<int32_t> id_of(std::string_view token) const {
    const auto found = ids_.find(token);
    return found == ids_.end() ? std::nullopt : std::optional(found->second);
  }

 private:
  [[noreturn]] void fail(const std::string& what) const;
  static size_t index(int32_t id) { return static_cast<size_t>(id); }
  bool has(int32_t id) const { return id >= 0 && id < size(); }
  void check_text(const std::string& text, int32_t id, std::string_view what) const;
  void add(const AddedToken& token, Alphabet alphabet, const Normalizer& normalizer);
  /// Makes room for an id and gives it its text.
  void place(int32_t id, const std::string& text, std::string bytes, TokenKind kind);

  std::string where_;
  std::vector<std::string> bytes_;  // by id; empty where there is no token
  std::vector<TokenKind> kinds_;    // by id
  TextMap<int32_t> ids_;
};

}  // namespace convoy::model
