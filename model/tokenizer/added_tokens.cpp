#include "model/tokenizer/added_tokens.hpp"

#include <algorithm>
#include <cassert>

#include "model/utf8.hpp"

namespace convoy::model {
namespace {

uint64_t edge(uint32_t node, char byte) {
  return static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(byte);
}

bool stands_alone(std::string_view text, ByteRange range, size_t begin, size_t end) {
  const bool word_before =
      begin > range.begin && is_word_character(character_at(text, previous_character(text, begin)).value);
  const bool word_behind = end < range.end && is_word_character(character_at(text, end).value);
  return !word_before && !word_behind;
}

}  // namespace

void AddedTokens::insert(const AddedToken& token) {
  assert(!token.content.empty());
  uint32_t node = 0;
  for (const char byte : token.content) {
    const auto [at, fresh] = edges_.emplace(edge(node, byte), static_cast<uint32_t>(ends_.size()));
    node = at->second;
    if (fresh) ends_.push_back(-1);
  }
  if (ends_[node] >= 0) return;
  ends_[node] = static_cast<int32_t>(tokens_.size());
  tokens_.push_back(token);
  anywhere_ = anywhere_ || token.anywhere;
}

const AddedToken* AddedTokens::longest(std::string_view text, size_t at, size_t trusted_end,
                                       size_t end) const {
  const AddedToken* found = nullptr;
  uint32_t node = 0;
  while (at < end) {
    const auto next = edges_.find(edge(node, text[at++]));
    if (next == edges_.end()) break;
    node = next->second;
    if (ends_[node] < 0) continue;
    const AddedToken& token = tokens_[static_cast<size_t>(ends_[node])];
    if (token.anywhere || at <= trusted_end) found = &token;
  }
  return found;
}

void AddedTokens::seek(std::string_view text, ByteRange range, ByteRange stretch, bool trusted,
                       Progress& progress, std::vector<Part>& parts) const {
  auto& [done, sought] = progress;
  // A token that is found anywhere may reach out of the stretch, another may not.
  const size_t end = anywhere_ ? range.end : stretch.end, trusted_end = trusted ? stretch.end : 0;
  for (sought = std::max(stretch.begin, sought); sought < stretch.end;) {
    const AddedToken* token = longest(text, sought, trusted_end, end);
    if (!token) {
      ++sought;
      continue;
    }
    size_t first = sought, last = sought + token->content.size();
    sought = last;
    if (token->single_word && !stands_alone(text, range, first, last)) continue;
    while (token->lstrip && first > done) {
      const size_t previous = previous_character(text, first);
      if (!is_white_space(character_at(text, previous).value)) break;
      first = previous;
    }
    while (token->rstrip && last < range.end) {
      const Utf8Character c = character_at(text, last);
      if (!is_white_space(c.value)) break;
      last += c.bytes;
    }
    if (first > done) parts.push_back({done, first, -1});
    parts.push_back({std::max(first, done), last, token->id});
    done = last;
  }
}

void AddedTokens::split(std::string_view text, ByteRange range, std::span<const ByteRange> trusted,
                        std::vector<Part>& parts) const {
  Progress progress{range.begin, range.begin};
  // A long conversation has as many trusted stretches as it has ranges: each range looks at its own only.
  auto t = std::ranges::partition_point(trusted, [&](const ByteRange& r) { return r.end <= range.begin; });
  for (; t != trusted.end() && t->begin < range.end && !empty(); ++t) {
    const ByteRange stretch{std::max(t->begin, range.begin), std::min(t->end, range.end)};
    if (anywhere_) seek(text, range, {progress.sought, stretch.begin}, false, progress, parts);
    seek(text, range, stretch, true, progress, parts);
  }
  if (anywhere_) seek(text, range, {progress.sought, range.end}, false, progress, parts);
  if (progress.done < range.end) parts.push_back({progress.done, range.end, -1});
}

}  // namespace convoy::model
