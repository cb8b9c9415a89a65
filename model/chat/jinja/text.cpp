#include "model/chat/jinja/text.hpp"

#include <utf8proc.h>

#include <algorithm>

#include "model/utf8.hpp"

namespace convoy::model::jinja {

void Text::append(std::string_view bytes, bool trusted) {
  if (bytes.empty()) return;
  if (!empty() && trusted != trusted_) runs_before_.push_back({size(), trusted_});
  bytes_ += bytes;
  trusted_ = trusted;
}

void Text::append(const Text& text, size_t begin, size_t end) {
  if (begin >= end) return;
  for (size_t i = text.run_at(begin); begin < end; i++) {
    const auto [run_end, trusted] = text.run(i);
    const size_t to = std::min(run_end, end);
    append(text.view().substr(begin, to - begin), trusted);
    begin = to;
  }
}

Text Text::slice(size_t begin, size_t end) const {
  Text part;
  part.append(*this, begin, end);
  return part;
}

Text Text::escaped() const {
  Text result;
  for_each_run([&](std::string_view bytes, bool trusted) {
    std::string written;
    for (const char c : bytes) {
      if (c == '&')
        written += "&amp;";
      else if (c == '<')
        written += "&lt;";
      else if (c == '>')
        written += "&gt;";
      else if (c == '"')
        written += "&#34;";
      else if (c == '\'')
        written += "&#39;";
      else
        written += c;
    }
    result.append(written, trusted);
  });
  return result;
}

size_t Text::run_at(size_t at) const {
  const auto after = [](size_t position, const Run& run) { return position < run.end; };
  return static_cast<size_t>(std::upper_bound(runs_before_.begin(), runs_before_.end(), at, after) -
                             runs_before_.begin());
}

size_t count_characters(std::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

std::vector<size_t> character_offsets(std::string_view text) {
  std::vector<size_t> offsets;
  for (size_t at = 0; at < text.size(); at++)
    if ((text[at] & 0xc0) != 0x80) offsets.push_back(at);
  offsets.push_back(text.size());
  return offsets;
}

bool is_python_space(char32_t character) {
  return is_white_space(character) || (character >= 0x1c && character <= 0x1f);
}

namespace {

template <class Goes>
Range strip_where(std::string_view text, bool left, bool right, Goes goes) {
  Range kept{0, text.size()};
  while (left && kept.begin < kept.end) {
    const Utf8Character c = character_at(text, kept.begin);
    if (!goes(c.value)) break;
    kept.begin += c.bytes;
  }
  while (right && kept.begin < kept.end) {
    size_t at = kept.end - 1;
    while ((text[at] & 0xc0) == 0x80) at--;
    if (!goes(character_at(text, at).value)) break;
    kept.end = at;
  }
  return kept;
}

}  // namespace

Range stripped(std::string_view text, bool left, bool right) {
  return strip_where(text, left, right, is_python_space);
}

Range stripped(std::string_view text, bool left, bool right, std::string_view chars) {
  return strip_where(text, left, right, [chars](char32_t character) {
    std::string encoded;
    append_utf8(character, encoded);
    return chars.find(encoded) != chars.npos;
  });
}

std::vector<Range> lines_of(std::string_view text) {
  std::vector<Range> lines;
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const Utf8Character c = character_at(text, at);
    const size_t end = at;
    at += c.bytes;
    const bool ends = (c.value >= 0x0a && c.value <= 0x0d) || (c.value >= 0x1c && c.value <= 0x1e) ||
                      c.value == 0x85 || c.value == 0x2028 || c.value == 0x2029;
    if (!ends) continue;
    if (c.value == '\r' && text.substr(at).starts_with('\n')) at++;
    lines.push_back({begin, end});
    begin = at;
  }
  if (begin < text.size()) lines.push_back({begin, text.size()});
  return lines;
}

Text converted(const Text& text, char32_t (*convert)(char32_t)) {
  Text result;
  text.for_each_run([&](std::string_view bytes, bool trusted) {
    std::string changed;
    for (size_t at = 0; at < bytes.size();) {
      const Utf8Character c = character_at(bytes, at);
      append_utf8(convert(c.value), changed);
      at += c.bytes;
    }
    result.append(changed, trusted);
  });
  return result;
}

char32_t upper_case(char32_t character) {
  return static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(character)));
}

char32_t lower_case(char32_t character) {
  return static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(character)));
}

bool is_cased(char32_t character) {
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(character));
  return category == UTF8PROC_CATEGORY_LU || category == UTF8PROC_CATEGORY_LL ||
         category == UTF8PROC_CATEGORY_LT;
}

}  // namespace convoy::model::jinja
