#include "actors/config_parser.hpp"

#include <algorithm>
#include <caf/all.hpp>
#include <caf/detail/parser/read_ini.hpp>  // CAF's internals: included here and nowhere else
#include <caf/parser_state.hpp>
#include <cctype>

namespace convoy::actors {

namespace {

using Iterator = std::string_view::const_iterator;
using State = caf::parser_state<Iterator, Iterator>;
using Kind = ConfigEntry::Kind;

struct TooDeep {};

/// What CAF's parser calls. Keeps the open maps and lists as a path of indices, since children move as they
/// grow.
class Collector {
 public:
  Collector(std::string_view text, const State& state, ConfigEntry& root)
      : text_(text), state_(state), open_{&root} {}

  void key(std::string name) {
    // The parser stands behind the key, at '=', '{' or ']'.
    const size_t here = static_cast<size_t>(state_.i - text_.begin());
    const size_t at = text_.rfind(name, here);
    const size_t newline = at == text_.npos || at == 0 ? text_.npos : text_.rfind('\n', at - 1);
    key_column_ = static_cast<int>(newline == text_.npos ? at + 1 : at - newline);
    key_line_ = line();
    key_ = std::move(name);
  }

  Collector& begin_map() { return begin(Kind::map); }
  Collector& begin_list() { return begin(Kind::list); }
  void end_map() { end(); }
  void end_list() { end(); }

  void value(int64_t x) { add(Kind::integer).integer = x; }
  void value(double) { add(Kind::real); }
  void value(bool x) { add(Kind::boolean).boolean = x; }
  void value(std::string x) { add(Kind::text).text = std::move(x); }
  void value(caf::timespan) { add(Kind::timespan); }
  void value(caf::atom_value x) { add(Kind::atom).text = caf::to_string(x); }
  void value(const caf::uri& x) { add(Kind::uri).text = caf::to_string(x); }

  /// After a syntax error: what is still open was cut off.
  void cut_off() {
    for (ConfigEntry* entry : open_) entry->complete = false;
  }

 private:
  // CAF counts a line when it reaches the newline that ends it, not behind it.
  int line() const { return state_.line - (state_.i != state_.e && *state_.i == '\n' ? 1 : 0); }

  ConfigEntry& add(Kind kind) {
    ConfigEntry& parent = *open_.back();
    ConfigEntry entry;
    entry.kind = kind;
    if (parent.kind == Kind::map) {
      entry.key = std::move(key_);
      entry.line = key_line_;
      entry.column = key_column_;
    } else {
      entry.line = line();
      entry.column = std::max(1, static_cast<int>(state_.column));
    }
    parent.children.push_back(std::move(entry));
    return parent.children.back();
  }

  Collector& begin(Kind kind) {
    if (open_.size() > config_depth_max) throw TooDeep{};
    // Only the innermost open entry grows, so pointers to those around it stay valid.
    open_.push_back(&add(kind));
    return *this;
  }

  void end() {
    if (open_.size() > 1) open_.pop_back();  // CAF's guards also call this while TooDeep passes through them
  }

  std::string_view text_;
  const State& state_;
  std::vector<ConfigEntry*> open_;
  std::string key_;
  int key_line_ = 0, key_column_ = 0;
};

std::string_view line_at(std::string_view text, Iterator at) {
  const size_t here = static_cast<size_t>(at - text.begin());
  const size_t before = here == 0 ? text.npos : text.rfind('\n', here - 1);
  const size_t begin = before == text.npos ? 0 : before + 1;
  return text.substr(begin, text.find('\n', here) - begin);
}

/// `key = 64KB`: CAF reads 64, then takes KB for another key and stumbles behind it.
bool has_letters_behind_number(std::string_view line) {
  const auto is_digit = [](unsigned char c) { return std::isdigit(c) != 0; };
  const auto value = std::find_if(line.begin(), line.end(), [](char c) { return c == '='; });
  const auto digits = std::find_if(value, line.end(), is_digit);
  const auto blank_between = [](char c) { return c == '=' || c == ' ' || c == '-' || c == '+'; };
  if (!std::all_of(value, digits, blank_between)) return false;
  const auto behind = std::find_if_not(digits, line.end(), is_digit);
  return behind != digits && behind != line.end() && std::isalpha(static_cast<unsigned char>(*behind));
}

/// Why the parser stopped at that character of the line, in the words of somebody who edits the file.
std::string explain(caf::pec code, std::string_view line, char at) {
  if (at == '#') return "'#' does not begin a comment; use ';'";
  if (at == '\r') return "Windows line end; save the file with plain line ends (LF)";
  if (has_letters_behind_number(line))
    return "letters behind a number; write a plain whole number, the unit is in the key's name";
  switch (code) {
    case caf::pec::integer_overflow:
    case caf::pec::integer_underflow:
    case caf::pec::exponent_overflow:
    case caf::pec::exponent_underflow:
    case caf::pec::timespan_overflow:
      return "number does not fit into 64 bits; write a smaller one";
    case caf::pec::fractional_timespan:
      return "a time with a unit; write a plain whole number, the unit is in the key's name";
    case caf::pec::illegal_escape_sequence:
      return "unknown escape in a text; \\n \\r \\t \\\\ and \\\" exist";
    case caf::pec::too_many_characters:
      return "single quotes make an atom of at most 10 characters; put texts in double quotes";
    case caf::pec::unexpected_newline:
      return "the line ends in the middle of a value or a text; complete it";
    case caf::pec::unexpected_eof:
      return "the file ends in the middle of a value, a list or a map; close it with \", ] or }";
    default:
      break;
  }
  if (std::isprint(static_cast<unsigned char>(at))) {
    std::string text = "unexpected '";
    text += at;
    text += "'; expected `key = value`, `[section]` or a comment after ';' (texts stand in double quotes)";
    return text;
  }
  return "unexpected character; expected `key = value`, `[section]` or a comment after ';'";
}

}  // namespace

ParsedConfig parse_config(std::string_view text) {
  ParsedConfig out;
  const auto refuse = [&](int line, int column, std::string why) {
    out.syntax_error = ConfigProblem{line, column, std::move(why)};
    return std::move(out);
  };
  if (text.size() > config_bytes_max)
    return refuse(0, 0,
                  "the file has " + std::to_string(text.size()) + " bytes; at most " +
                      std::to_string(config_bytes_max) + " are read");
  // CAF takes a zero byte for the end of the text and would ignore what follows.
  if (const size_t zero = text.find('\0'); zero != text.npos) {
    const auto lines = std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(zero), '\n');
    return refuse(static_cast<int>(lines) + 1, 1, "zero byte; cluster.conf is plain text");
  }

  State state(text.begin(), text.end());
  Collector collector(text, state, out.root);
  try {
    caf::detail::parser::read_ini(state, collector);
  } catch (const TooDeep&) {
    return refuse(state.line, state.column,
                  "lists and maps lie more than " + std::to_string(config_depth_max) + " deep; flatten them");
  }
  if (state.code != caf::pec::success || state.i != state.e) {
    collector.cut_off();
    const bool at_newline = state.i != state.e && *state.i == '\n';
    return refuse(state.line - (at_newline ? 1 : 0), state.column,
                  explain(state.code, line_at(text, state.i), state.current()));
  }
  return out;
}

}  // namespace convoy::actors
