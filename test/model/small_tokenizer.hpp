#pragma once
// A tokenizer small enough to follow by hand: every byte, a few merges, a few added tokens.

#include <string>

#include "model/tokenizer/tokenizer_parts.hpp"
#include "model/utf8.hpp"

namespace convoy::test {

/// Ids 0..255 are the bytes in the order of their characters' code points; then follow the merges' results:
/// 256 "ab", 257 "abc", 258 "bc", 259 " a" (written Ġa); then the added tokens from 300 on.
inline model::TokenizerParts small_parts() {
  model::TokenizerParts parts;
  parts.where = "small";
  auto add = [&](std::string text) {
    parts.vocabulary.emplace_back(std::move(text), static_cast<int32_t>(parts.vocabulary.size()));
  };
  for (char32_t c = '!'; c < 0x144; ++c) {
    if (c > '~' && c < 0x100 && (c < 0xA1 || c == 0xAD)) continue;
    std::string text;
    model::append_utf8(c, text);
    add(text);
  }
  for (const char* text : {"ab", "abc", "bc", "Ġa"}) add(text);
  parts.merges = {{"a", "b"}, {"ab", "c"}, {"b", "c"}, {"Ġ", "a"}};
  parts.added = {{.id = 300, .content = "<|x|>", .special = true},
                 {.id = 301, .content = "<|x|>y", .special = true},
                 {.id = 302, .content = "<think>"},
                 {.id = 303, .content = "[strip]", .lstrip = true, .rstrip = true, .special = true},
                 {.id = 304, .content = "word", .single_word = true},
                 {.id = 305, .content = "<late>", .normalized = true}};
  parts.rules = {{.expression = std::string(model::gpt2_expression)}};
  return parts;
}

inline std::shared_ptr<const model::Tokenizer> small() { return model::make_tokenizer(small_parts()); }

inline std::vector<int32_t> encode(const model::Tokenizer& tokenizer, std::vector<model::Segment> segments) {
  return tokenizer.encode(segments);
}

}  // namespace convoy::test
