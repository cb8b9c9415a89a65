#pragma once
// How a vocabulary writes the bytes of a text. Pure functions, used by the tokenizer and by who writes one;
// any thread.

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace convoy::model {

/// byte_level: each byte as one printable character (a blank as Ġ). sentencepiece: text as it is, a blank as
/// ▁, and bytes that no piece covers as <0x0A>.
enum class Alphabet : uint8_t { byte_level, sentencepiece };

/// Sentencepiece's blank, U+2581.
inline constexpr std::string_view blank_mark = "\xE2\x96\x81";

/// The bytes that a token stands for. A byte-level one that is not all of that alphabet stands for its own
/// text.
std::string token_bytes(Alphabet alphabet, std::string_view token);

/// The characters that stand for the bytes 0 to 255 in a byte-level vocabulary.
std::array<char32_t, 256> byte_characters();
/// Whether every character of a token stands for a byte.
bool is_byte_level(std::string_view token);

/// Whether it is one character, which stands for a byte that is not in UTF-8.
bool is_lone_byte(std::string_view token);

/// <0x0A>, sentencepiece's token of a byte.
std::string byte_piece(uint8_t byte);
std::optional<uint8_t> byte_of_piece(std::string_view token);

/// Whether the byte occurs in UTF-8 at all.
constexpr bool is_in_utf8(uint8_t byte) { return byte != 0xC0 && byte != 0xC1 && byte < 0xF5; }

}  // namespace convoy::model
