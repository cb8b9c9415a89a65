#include "model/tokenizer/alphabet.hpp"

#include <cassert>
#include <charconv>
#include <cstdio>

#include "model/utf8.hpp"

namespace convoy::model {
namespace {

/// Printable characters of Latin-1 stand for themselves, the others in order from U+0100.
struct ByteLevel {
  std::array<char32_t, 256> character;
  std::array<int16_t, 0x144> byte;  // -1: not of the alphabet

  ByteLevel() {
    byte.fill(-1);
    char32_t next = 0x100;
    for (int b = 0; b < 256; ++b) {
      const bool printable = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      character[static_cast<size_t>(b)] = printable ? static_cast<char32_t>(b) : next++;
      byte[character[static_cast<size_t>(b)]] = static_cast<int16_t>(b);
    }
    assert(next == byte.size());
  }
};

const ByteLevel& byte_level() {
  static const ByteLevel table;
  return table;
}

std::optional<std::string> byte_level_bytes(std::string_view token) {
  const ByteLevel& table = byte_level();
  std::string out;
  for (size_t at = 0; at < token.size();) {
    const Utf8Character c = character_at(token, at);
    if (!c.valid || c.value >= table.byte.size() || table.byte[c.value] < 0) return std::nullopt;
    out += static_cast<char>(table.byte[c.value]);
    at += c.bytes;
  }
  return out;
}

std::string piece_bytes(std::string_view token) {
  if (const auto byte = byte_of_piece(token)) return std::string(1, static_cast<char>(*byte));
  std::string out;
  for (size_t at = 0; at < token.size();) {
    if (token.substr(at).starts_with(blank_mark)) {
      out += ' ';
      at += blank_mark.size();
    } else {
      out += token[at++];
    }
  }
  return out;
}

}  // namespace

std::string token_bytes(Alphabet alphabet, std::string_view token) {
  return alphabet == Alphabet::sentencepiece ? piece_bytes(token)
                                             : byte_level_bytes(token).value_or(std::string(token));
}

std::array<char32_t, 256> byte_characters() { return byte_level().character; }

bool is_byte_level(std::string_view token) { return byte_level_bytes(token).has_value(); }

bool is_lone_byte(std::string_view token) {
  const auto bytes = byte_level_bytes(token);
  return bytes && bytes->size() == 1 && !is_in_utf8(static_cast<uint8_t>(bytes->front()));
}

std::string byte_piece(uint8_t byte) {
  char text[8];
  std::snprintf(text, sizeof text, "<0x%02X>", static_cast<unsigned>(byte));
  return text;
}

std::optional<uint8_t> byte_of_piece(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token.back() != '>') return std::nullopt;
  uint8_t byte = 0;
  const char* const end = token.data() + 5;
  const auto [rest, error] = std::from_chars(token.data() + 3, end, byte, 16);
  return error == std::errc() && rest == end ? std::optional(byte) : std::nullopt;
}

}  // namespace convoy::model
