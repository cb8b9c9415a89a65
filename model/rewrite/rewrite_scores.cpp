// Nothing but what lies within a text decides how it becomes one token: of the merges within, always the best
// comes next, whatever stands around it. So a token is made in one way only, which its own text shows,
// however many the list has and in whatever order; and two sets of rules that make every token's own text in
// the same way, and different tokens in the same order, cut all texts alike.

#include "model/rewrite/rewrite_scores.hpp"

#include <algorithm>
#include <boost/unordered/unordered_flat_set.hpp>
#include <optional>
#include <string_view>

#include "model/tokenizer/merges.hpp"
#include "model/tokenizer/vocabulary.hpp"
#include "model/utf8.hpp"

namespace convoy::model {

namespace {

constexpr size_t named_max = 8;

/// The last merge of a text that becomes one token: the bytes of its left half, and how good it was.
struct Made {
  size_t left = 0, rank = 0;
};

/// Merges a text as long as anything merges. rank(left, both): how good it is to make `both` of two parts of
/// which the left one has so many bytes; less is better, nothing: it is no merge. Nothing if parts are left,
/// and for a single character.
template <typename Rank>
std::optional<Made> make(std::string_view text, Rank rank) {
  std::vector<size_t> borders;
  for (size_t at = 0; at < text.size(); at += character_at(text, at).bytes) borders.push_back(at);
  borders.push_back(text.size());
  std::optional<Made> last;
  while (borders.size() > 2) {
    std::optional<size_t> best;
    for (size_t i = 1; i + 1 < borders.size(); ++i) {
      const std::string_view both = text.substr(borders[i - 1], borders[i + 1] - borders[i - 1]);
      const size_t left = borders[i] - borders[i - 1];
      const std::optional<size_t> found = rank(left, both);
      if (found && (!best || *found < last->rank)) best = i, last = {left, *found};
    }
    if (!best) return std::nullopt;
    borders.erase(borders.begin() + static_cast<std::ptrdiff_t>(*best));
  }
  return last;
}

/// By the text that two tokens make: where they meet, and their place in the list.
TextMap<std::vector<Made>> ways(const TokenizerParts& parts) {
  TextMap<std::vector<Made>> all;
  for (size_t i = 0; i < parts.merges.size(); ++i) {
    const auto& [left, right] = parts.merges[i];
    all[left + right].push_back({left.size(), i});
  }
  return all;
}

std::optional<Made> made_by_list(std::string_view text, const TextMap<std::vector<Made>>& list) {
  return make(text, [&](size_t left, std::string_view both) -> std::optional<size_t> {
    const auto found = list.find(both);
    if (found == list.end()) return std::nullopt;
    const auto way = std::ranges::find(found->second, left, &Made::left);
    return way == found->second.end() ? std::nullopt : std::optional(way->rank);
  });
}

/// Whole numbers from 0 down, the best first; equal ranks equal.
std::vector<float> scores_of(const std::vector<size_t>& ranks) {
  std::vector<size_t> order = ranks;
  std::ranges::sort(order);
  order.erase(std::unique(order.begin(), order.end()), order.end());
  std::vector<float> scores;
  for (const size_t rank : ranks)
    scores.push_back(-static_cast<float>(std::ranges::lower_bound(order, rank) - order.begin()));
  return scores;
}

}  // namespace

ListScores scores_of_list(const TokenizerParts& parts) {
  ListScores result;
  const auto differs = [&](const std::string& text) {
    if (result.differing.size() < named_max) result.differing.push_back(text);
  };
  boost::unordered_flat_set<std::string_view> others;  // to which pieces do not merge
  for (const AddedToken& token : parts.added) others.insert(token.content);
  for (const auto& [text, unused] : parts.vocabulary)
    if (byte_of_piece(text) || text.size() > piece_bytes_max) others.insert(text);

  const auto list = ways(parts);
  TextMap<std::optional<Made>> pieces;
  std::vector<size_t> ranks;
  for (const auto& [text, unused] : parts.vocabulary) {
    const auto made = others.contains(text) ? std::nullopt : made_by_list(text, list);
    ranks.push_back(made ? made->rank : parts.merges.size());
    if (!others.contains(text)) pieces.emplace(text, made);
  }
  for (const auto& [text, unused] : list)
    if (!pieces.contains(text)) differs(text);
  for (const auto& [text, by_list] : pieces) {
    const auto by_scores = make(text, [&](size_t, std::string_view both) -> std::optional<size_t> {
      const auto found = pieces.find(both);
      if (found == pieces.end()) return std::nullopt;
      return found->second ? found->second->rank : parts.merges.size();
    });
    if (by_scores.has_value() != by_list.has_value() || (by_scores && by_scores->left != by_list->left))
      differs(text);
  }
  result.scores = scores_of(ranks);
  return result;
}

}  // namespace convoy::model
