#include "model/utf8.hpp"

#include <utf8proc.h>

#include <algorithm>
#include <cassert>
#include <iterator>
#include <span>
#include <vector>

namespace convoy::model {

Utf8Character character_at(std::string_view text, size_t at) {
  auto byte = [&](size_t i) -> uint8_t { return at + i < text.size() ? text[at + i] : 0; };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return {lead, 1, true};
  if (lead < 0xC2 || lead > 0xF4) return {0, 1, false};
  const size_t bytes = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // The second byte's range excludes overlong forms, surrogates and what lies beyond U+10FFFF.
  const uint8_t low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
  const uint8_t high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
  if (byte(1) < low || byte(1) > high) return {0, 1, false};
  char32_t value = (lead & (0x7F >> bytes)) << 6 | (byte(1) & 0x3F);
  for (size_t i = 2; i < bytes; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return {0, i, false};
    value = value << 6 | (byte(i) & 0x3F);
  }
  return {value, bytes, true};
}

size_t previous_character(std::string_view text, size_t at) {
  do --at;
  while (at > 0 && (static_cast<uint8_t>(text[at]) & 0xC0) == 0x80);
  return at;
}

size_t find_invalid_utf8(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    if (static_cast<uint8_t>(text[at]) < 0x80) {
      ++at;
      continue;
    }
    const Utf8Character c = character_at(text, at);
    if (!c.valid) return at;
    at += c.bytes;
  }
  return std::string_view::npos;
}

std::string replace_invalid_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const Utf8Character c = character_at(text, at);
    out += c.valid ? text.substr(at, c.bytes) : std::string_view("\xEF\xBF\xBD");
    at += c.bytes;
  }
  return out;
}

void append_utf8(char32_t character, std::string& text) {
  utf8proc_uint8_t bytes[4];
  text.append(reinterpret_cast<const char*>(bytes),
              static_cast<size_t>(utf8proc_encode_char(static_cast<utf8proc_int32_t>(character), bytes)));
}

bool is_white_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool is_word_character(char32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:  // the joiners, and the circled, squared and parenthesised letters that are Alphabetic
      return c == 0x200C || c == 0x200D || (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
             (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
  }
}

namespace {

constexpr size_t decomposed_characters_max = 4;  // of one character, in form C and D (UAX #15)
constexpr auto nfc_options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);

/// Unicode's canonical order of what was decomposed: marks that follow each other by their class. utf8proc
/// swaps neighbours, which takes the square of a run's length.
void order_marks(std::vector<utf8proc_int32_t>& characters) {
  const auto mark_class = [](utf8proc_int32_t c) { return utf8proc_get_property(c)->combining_class; };
  const auto is_mark = [&](utf8proc_int32_t c) { return mark_class(c) > 0; };
  for (auto run = characters.begin(); run != characters.end();) {
    run = std::find_if(run, characters.end(), is_mark);
    const auto end = std::find_if_not(run, characters.end(), is_mark);
    std::ranges::stable_sort(run, end, {}, mark_class);
    run = end;
  }
}

/// Never composed with what stands before it, nor ordered among it. Some letters and marks that are not, are
/// taken to be: nothing depends on that.
bool begins_form_c(char32_t c) {
  const auto* const property = utf8proc_get_property(static_cast<utf8proc_int32_t>(c));
  const bool mark = property->category == UTF8PROC_CATEGORY_MN ||
                    property->category == UTF8PROC_CATEGORY_MC || property->category == UTF8PROC_CATEGORY_ME;
  const bool hangul_behind_first = c >= 0x1160 && c <= 0x11FF, kirat_rai = c >= 0x16D60 && c <= 0x16D6F;
  return property->combining_class == 0 && !mark && !hangul_behind_first && !kirat_rai;
}

}  // namespace

bool is_nfc_boundary(std::string_view text, size_t at) {
  const auto begins = [&](size_t i) { return begins_form_c(character_at(text, i).value); };
  if (at == 0 || at == text.size() || begins(at)) return true;
  size_t first = previous_character(text, at), last = at;
  while (first > 0 && !begins(first)) first = previous_character(text, first);
  while (last < text.size() && !begins(last)) last += character_at(text, last).bytes;
  const std::string_view before = text.substr(first, at - first), behind = text.substr(at, last - at);
  return normalise_nfc(before) + normalise_nfc(behind) == normalise_nfc(text.substr(first, last - first));
}

std::string normalise_nfc(std::string_view text) {
  if (std::ranges::all_of(text, [](char c) { return static_cast<uint8_t>(c) < 0x80; }))
    return std::string(text);
  std::vector<utf8proc_int32_t> characters;
  characters.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const Utf8Character c = character_at(text, at);
    assert(c.valid && "the text was checked to be UTF-8");
    at += c.bytes;
    utf8proc_int32_t decomposed[decomposed_characters_max];
    int boundary = 0;  // of graphemes: not asked for
    const utf8proc_ssize_t count = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c.value), decomposed,
                                                           std::ssize(decomposed), nfc_options, &boundary);
    assert(count >= 0 && count <= std::ssize(decomposed));
    characters.insert(characters.end(), decomposed, decomposed + count);
  }
  order_marks(characters);
  const utf8proc_ssize_t count = utf8proc_normalize_utf32(
      characters.data(), static_cast<utf8proc_ssize_t>(characters.size()), nfc_options);
  assert(count >= 0);
  std::string out;
  out.reserve(text.size());
  for (const utf8proc_int32_t c : std::span(characters).first(static_cast<size_t>(count)))
    append_utf8(static_cast<char32_t>(c), out);
  return out;
}

}  // namespace convoy::model
