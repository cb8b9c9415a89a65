#pragma once
// Reading UTF-8 one character at a time: what the tokenizers need of it. Pure functions; any thread.

#include <cstddef>
#include <string>
#include <string_view>

namespace convoy::model {

struct Utf8Character {
  char32_t value = 0;  // only if valid
  size_t bytes =
      0;  // ≥ 1; of what is not UTF-8, the longest prefix of a character (Unicode's "maximal subpart")
  bool valid = false;
};

/// The character that starts at text[at]; at < text.size().
Utf8Character character_at(std::string_view text, size_t at);

/// Offset of the character that ends at `at` > 0; text is UTF-8.
size_t previous_character(std::string_view text, size_t at);

/// Offset of the first byte that is not UTF-8; npos if there is none.
size_t find_invalid_utf8(std::string_view text);

/// The text with U+FFFD for each maximal subpart that is not UTF-8.
std::string replace_invalid_utf8(std::string_view text);

void append_utf8(char32_t character, std::string& text);

/// Unicode's White_Space.
bool is_white_space(char32_t character);
/// A character of a word: Alphabetic, a mark, a decimal digit, connector punctuation or a joiner.
bool is_word_character(char32_t character);

/// Normalisation form C. `text` is UTF-8.
std::string normalise_nfc(std::string_view text);
/// Whether the forms C of what lies before and behind `at` are together that of the text, near `at`.
bool is_nfc_boundary(std::string_view text, size_t at);

}  // namespace convoy::model
