#include "model/tokenizer/added_tokens.hpp"

#include <algorithm>
#include <cassert>

#include "model/utf8.hpp"

namespace convoy::model {
namespace {

uint64_t edge(uint32_t node, char byte) {
  return static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(byte);
}

/// Offset of the character that ends at `at` > 0; text is UTF-8.
size_t previous_character(std::string_view text, size_t at) {
  do --at;
  while (at > 0 && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80);
  return at;
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
  assert(ends_[node] < 0 && "the reader refuses duplicates");
  ends_[node] = static_cast<int32_t>(tokens_.size());
  tokens_.push_back(token);
}

const AddedToken* AddedTokens::longest(std::string_view text, size_t at, size_t end) const {
  const AddedToken* found = nullptr;
  uint32_t node = 0;
  for (; at < end; ++at) {
    const auto next = edges_.find(edge(node, text[at]));
    if (next == edges_.end()) break;
    node = next->second;
    if (ends_[node] >= 0) found = &tokens_[static_cast<size_t>(ends_[node])];
  }
  return found;
}

void AddedTokens::split(std::string_view text, ByteRange range, std::span<const ByteRange> trusted,
                        std::vector<Part>& parts) const {
  size_t done = range.begin;  // up to here parts were appended
  // A long conversation has as many trusted stretches as it has ranges: each range looks at its own only.
  auto t = std::ranges::partition_point(trusted, [&](const ByteRange& r) { return r.end <= range.begin; });
  for (; t != trusted.end() && t->begin < range.end && !empty(); ++t) {
    const size_t end = std::min(t->end, range.end);
    for (size_t at = std::max(t->begin, range.begin); at < end;) {
      const AddedToken* token = longest(text, at, end);
      if (!token) {
        ++at;
        continue;
      }
      size_t first = at, last = at + token->content.size();
      at = last;
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
  if (done < range.end) parts.push_back({done, range.end, -1});
}

}  // namespace convoy::model
