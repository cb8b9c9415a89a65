#include "model/chat/jinja/lexer.hpp"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <optional>

#include "model/chat/jinja/meter.hpp"
#include "model/chat/jinja/text.hpp"
#include "model/json.hpp"
#include "model/utf8.hpp"

namespace convoy::model::jinja {
namespace {

using Kind = Token::Kind;

/// Every kind of newline is one, and the last one goes.
std::string normalised(std::string_view source) {
  std::string text;
  for (size_t i = 0; i < source.size(); i++) {
    if (source[i] != '\r') {
      text += source[i];
      continue;
    }
    text += '\n';
    if (source.substr(i + 1).starts_with('\n')) i++;
  }
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(normalised(source)) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) {
      const size_t tag = find_tag();
      if (tag == std::string::npos) {
        add_text(at_, source_.size());
        move_to(source_.size());
      } else if (const auto raw = raw_tag(tag, "raw")) {
        text_before(tag);
        move_to(raw->end);
        raw_text();
      } else {
        text_before(tag);
        switch (source_[tag + 1]) {
          case '#':
            comment();
            break;
          case '%':
            tag_tokens(Kind::block_begin, Kind::block_end, "%}");
            break;
          default:
            tag_tokens(Kind::output_begin, Kind::output_end, "}}");
        }
      }
    }
    add(Kind::end, "");
    return std::move(tokens_);
  }

 private:
  std::string_view rest() const { return std::string_view(source_).substr(at_); }
  void move_to(size_t at) {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(at_),
                                         source_.begin() + static_cast<std::ptrdiff_t>(at), '\n'));
    starts_line_ = at > at_ ? source_[at - 1] == '\n' : starts_line_;
    at_ = at;
  }
  Token& add(Kind kind, std::string_view text) {
    return tokens_.emplace_back(Token{kind, line_, std::string(text)});
  }
  void add_text(size_t begin, size_t end) {
    if (begin < end) add(Kind::text, std::string_view(source_).substr(begin, end - begin));
  }
  size_t skip_space(size_t at) const {
    while (at < source_.size()) {
      const Utf8Character c = character_at(source_, at);
      if (!is_python_space(c.value)) break;
      at += c.bytes;
    }
    return at;
  }

  size_t find_tag() const {
    for (size_t at = source_.find('{', at_); at != std::string::npos; at = source_.find('{', at + 1)) {
      const char next = at + 1 < source_.size() ? source_[at + 1] : '\0';
      if (next == '{' || next == '%' || next == '#') return at;
    }
    return std::string::npos;
  }

  /// Up to where the tag opens, without what its sign or its place on the line takes away; then into the tag.
  void text_before(size_t tag) {
    const std::string_view text = std::string_view(source_).substr(at_, tag - at_);
    const char sign = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
    size_t kept = text.size();
    if (sign == '-') {
      kept = stripped(text, false, true).end;
    } else if (sign != '+' && source_[tag + 1] != '{') {
      const size_t line_begin = text.rfind('\n') + 1;  // 0 if there is none
      const bool from_line_begin = line_begin > 0 || starts_line_;
      if (from_line_begin && stripped(text.substr(line_begin), true, false).begin + line_begin == text.size())
        kept = line_begin;
    }
    add_text(at_, at_ + kept);
    move_to(tag + (sign == '-' || sign == '+' ? 3 : 2));
    starts_line_ = false;
  }

  struct RawTag {
    size_t begin, end;
  };
  /// `{% name %}` at that place; behind it, what its sign takes away.
  std::optional<RawTag> raw_tag(size_t tag, std::string_view name) const {
    if (source_.compare(tag, 2, "{%") != 0) return std::nullopt;
    size_t at = tag + 2;
    if (at < source_.size() && (source_[at] == '-' || source_[at] == '+')) at++;
    at = skip_space(at);
    if (source_.compare(at, name.size(), name) != 0) return std::nullopt;
    at = skip_space(at + name.size());
    const bool ends = name == "endraw";
    if (source_.compare(at, 3, "-%}") == 0) return RawTag{tag, skip_space(at + 3)};
    if (ends && source_.compare(at, 3, "+%}") == 0) return RawTag{tag, at + 3};
    if (source_.compare(at, 2, "%}") != 0) return std::nullopt;
    at += 2;
    return RawTag{tag, ends && at < source_.size() && source_[at] == '\n' ? at + 1 : at};
  }

  void raw_text() {
    const int begins = line_;
    for (size_t tag = source_.find("{%", at_); tag != std::string::npos; tag = source_.find("{%", tag + 1)) {
      const auto end = raw_tag(tag, "endraw");
      if (!end) continue;
      text_before(tag);
      move_to(end->end);
      return;
    }
    fail_at(begins, "`{% raw %}` has no `{% endraw %}`");
  }

  void comment() {
    const size_t end = source_.find("#}", at_);
    if (end == std::string::npos) fail_at(line_, "a comment has no end");
    const char sign = end > at_ ? source_[end - 1] : '\0';
    if (sign == '-')
      move_to(skip_space(end + 2));
    else
      end_tag(end + 2, sign == '+');
  }

  /// Behind a tag: its newline goes.
  void end_tag(size_t at, bool keeps_newline) {
    move_to(!keeps_newline && at < source_.size() && source_[at] == '\n' ? at + 1 : at);
  }

  void tag_tokens(Kind begin, Kind end, std::string_view closing) {
    const int begins = line_;
    std::string open;  // brackets
    add(begin, "");
    while (true) {
      move_to(skip_space(at_));
      if (at_ == source_.size()) fail_at(begins, "a tag has no end");
      if (open.empty()) {
        if (rest().starts_with("-" + std::string(closing))) {
          add(end, "");
          return move_to(skip_space(at_ + 3));
        }
        const bool block = end == Kind::block_end, plus = block && rest().starts_with("+%}");
        if (plus || rest().starts_with(closing)) {
          add(end, "");
          const size_t behind = at_ + closing.size() + (plus ? 1 : 0);
          return block ? end_tag(behind, plus) : move_to(behind);
        }
      }
      token(open);
    }
  }

  void token(std::string& open) {
    const char c = source_[at_];
    const Utf8Character character = character_at(source_, at_);
    if (is_digit(c)) {
      number();
    } else if (is_word_character(character.value) || c == '_') {
      const size_t begin = at_;
      size_t end = at_;
      while (end < source_.size() && is_word_character(character_at(source_, end).value))
        end += character_at(source_, end).bytes;
      add(Kind::name, std::string_view(source_).substr(begin, end - begin));
      move_to(end);
    } else if (c == '"' || c == '\'') {
      string(c);
    } else {
      mark(open);
    }
  }

  void number() {
    constexpr std::string_view digits = "0123456789_";
    const bool behind_dot = at_ > 0 && source_[at_ - 1] == '.';
    size_t end = std::min(source_.find_first_not_of(digits, at_), source_.size());
    bool real = false;
    if (!behind_dot && end + 1 < source_.size() && source_[end] == '.' && is_digit(source_[end + 1])) {
      real = true;
      end = std::min(source_.find_first_not_of(digits, end + 1), source_.size());
    }
    if (!behind_dot && end < source_.size() && (source_[end] == 'e' || source_[end] == 'E')) {
      size_t exponent = end + 1;
      if (exponent < source_.size() && (source_[exponent] == '-' || source_[exponent] == '+')) exponent++;
      if (exponent < source_.size() && is_digit(source_[exponent])) {
        real = true;
        end = std::min(source_.find_first_not_of(digits, exponent), source_.size());
      }
    }
    std::string text = source_.substr(at_, end - at_);
    std::erase(text, '_');
    Token& token = add(real ? Kind::real : Kind::integer, text);
    if (real) {
      token.real = std::strtod(text.c_str(), nullptr);
    } else if (std::from_chars(text.data(), text.data() + text.size(), token.integer).ec != std::errc()) {
      fail_at(line_, "the integer " + text.substr(0, 40) + " leaves 64 bits");
    }
    move_to(end);
  }

  void string(char quote) {
    size_t end = at_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) fail_at(line_, "a string has no end");
    add(Kind::string, unescaped(std::string_view(source_).substr(at_ + 1, end - at_ - 1)));
    move_to(end + 1);
  }

  /// As Python reads a string's escapes; what it does not know stays as it is.
  std::string unescaped(std::string_view text) const {
    std::string out;
    for (size_t i = 0; i < text.size(); i++) {
      if (text[i] != '\\' || i + 1 == text.size()) {
        out += text[i];
        continue;
      }
      const char c = text[++i];
      constexpr std::string_view letters = "abfnrtv\\'\"", meanings = "\a\b\f\n\r\t\v\\'\"";
      if (const size_t known = letters.find(c); known != letters.npos)
        out += meanings[known];
      else if (c == 'x' || c == 'u' || c == 'U')
        i += coded(text.substr(i + 1), c == 'x' ? 2 : c == 'u' ? 4 : 8, 16, out);
      else if (c >= '0' && c <= '7')
        i += coded(text.substr(i), octal_digits(text.substr(i)), 8, out) - 1;
      else if (c != '\n')
        (out += '\\') += c;
    }
    return out;
  }
  static size_t octal_digits(std::string_view text) {
    return std::min<size_t>({text.find_first_not_of("01234567"), text.size(), 3});
  }
  size_t coded(std::string_view text, size_t digits, int base, std::string& out) const {
    uint32_t value = 0;
    const char* const end = text.data() + std::min(digits, text.size());
    const bool read = std::from_chars(text.data(), end, value, base).ptr == text.data() + digits;
    if (!read || value > 0x10ffff || (value >= 0xd800 && value < 0xe000))
      fail_at(line_, "an escape in a string stands for no character");
    append_utf8(value, out);
    return digits;
  }

  void mark(std::string& open) {
    static constexpr std::string_view marks[] = {"**", "//", "==", "!=", ">=", "<=", "+", "-", "/",
                                                 "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                                 ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};
    const auto* known = std::find_if(std::begin(marks), std::end(marks),
                                     [this](std::string_view each) { return rest().starts_with(each); });
    if (known == std::end(marks))
      fail_at(line_, "has the unexpected character " +
                         in_quotes(rest().substr(0, character_at(source_, at_).bytes)));
    const char c = known->front();
    if (c == '(' || c == '[' || c == '{') {
      open += c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (c == ')' || c == ']' || c == '}') {
      if (open.empty() || open.back() != c)
        fail_at(line_, "has a `" + std::string(1, c) + "` that closes nothing");
      open.pop_back();
    }
    add(Kind::mark, *known);
    move_to(at_ + known->size());
  }

  std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  bool starts_line_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokens_of(std::string_view source) { return Lexer(source).run(); }

}  // namespace convoy::model::jinja
