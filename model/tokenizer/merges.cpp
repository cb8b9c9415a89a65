#include "model/tokenizer/merges.hpp"

#include <algorithm>
#include <cmath>

#include "model/error.hpp"
#include "model/json.hpp"
#include "model/utf8.hpp"

namespace convoy::model {
namespace {

[[noreturn]] void fail(const TokenizerParts& parts, const std::string& what) {
  throw InputError(what, parts.where, "check that the file is whole and a tokenizer");
}

/// By descending score from 0 on, equal scores equal.
std::vector<int32_t> ranks_of(const TokenizerParts& parts) {
  const std::vector<float>& scores = parts.scores;
  if (scores.size() != parts.vocabulary.size()) fail(parts, "not every token has a score");
  if (!std::ranges::all_of(scores, [](float s) { return std::isfinite(s); }))
    fail(parts, "a token's score is not a number");
  std::vector<float> order = scores;
  std::ranges::sort(order, std::greater<>());
  order.erase(std::unique(order.begin(), order.end()), order.end());
  std::vector<int32_t> ranks;
  ranks.reserve(scores.size());
  for (const float score : scores)
    ranks.push_back(
        static_cast<int32_t>(std::ranges::lower_bound(order, score, std::greater<>()) - order.begin()));
  return ranks;
}

}  // namespace

std::vector<Bpe::Merge> listed_merges(const TokenizerParts& parts, const Vocabulary& vocabulary) {
  auto token = [&](const std::string& text) {
    const std::optional<int32_t> id = vocabulary.id_of(text);
    if (!id) fail(parts, "a merge names the token " + in_quotes(text) + ", which is not in the vocabulary");
    return *id;
  };
  std::vector<Bpe::Merge> merges;
  merges.reserve(parts.merges.size());
  boost::unordered_flat_map<uint64_t, bool> seen;
  seen.reserve(parts.merges.size());
  for (const auto& [left, right] : parts.merges) {
    const Bpe::Merge merge{token(left), token(right), token(left + right),
                           static_cast<int32_t>(merges.size())};
    const uint64_t pair = static_cast<uint64_t>(merge.left) << 32 | static_cast<uint32_t>(merge.right);
    if (!seen.emplace(pair, true).second)
      fail(parts, "the merge of " + in_quotes(left) + " and " + in_quotes(right) + " stands twice");
    merges.push_back(merge);
  }
  return merges;
}

std::vector<Bpe::Merge> scored_merges(const TokenizerParts& parts, const Vocabulary& vocabulary,
                                      Speller& speller, std::vector<std::vector<int32_t>>& stand_ins) {
  boost::unordered_flat_map<std::string_view, int32_t> pieces;
  pieces.reserve(parts.vocabulary.size());
  const auto is_piece = [](const std::string& text) { return !byte_of_piece(text); };
  for (const auto& [text, id] : parts.vocabulary) {
    if (!is_piece(text)) continue;
    if (text.size() > piece_bytes_max)
      fail(parts, "the token " + std::to_string(id) + " has " + std::to_string(text.size()) +
                      " bytes, at most " + std::to_string(piece_bytes_max) + " are supported");
    pieces.emplace(text, id);
  }
  for (const auto& [text, unused] : parts.vocabulary) {
    if (!is_piece(text)) continue;
    for (size_t at = 0; at < text.size();) {
      const Utf8Character c = character_at(text, at);
      const std::string_view character = std::string_view(text).substr(at, c.bytes);
      const int32_t symbol = vocabulary.size() + static_cast<int32_t>(stand_ins.size());
      if (pieces.emplace(character, symbol).second) {
        stand_ins.push_back(speller.spell_unknown(character));
        speller.stand_in(c.value, symbol);
      }
      at += c.bytes;
    }
  }
  const std::vector<int32_t> ranks = ranks_of(parts);
  std::vector<Bpe::Merge> merges;
  for (size_t i = 0; i < parts.vocabulary.size(); ++i) {
    const auto& [text, id] = parts.vocabulary[i];
    if (!is_piece(text)) continue;
    const std::string_view piece = text;
    for (size_t at = character_at(piece, 0).bytes; at < piece.size(); at += character_at(piece, at).bytes) {
      const auto left = pieces.find(piece.substr(0, at)), right = pieces.find(piece.substr(at));
      if (left != pieces.end() && right != pieces.end())
        merges.push_back({left->second, right->second, id, ranks[i]});
    }
  }
  return merges;
}

}  // namespace convoy::model
