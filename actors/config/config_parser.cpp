#include "actors/config/config_parser.hpp"

#include <algorithm>
#include <caf/all.hpp>
#include <caf/detail/parser/read_ini.hpp>  // CAF's internals: included here and nowhere else
#include <caf/parser_state.hpp>
#include <cctype>
#include <optional>

namespace convoy::actors {

namespace {

using Iterator = std::string_view::const_iterator;
using State = caf::parser_state<Iterator, Iterator>;
using Kind = ConfigEntry::Kind;

struct TooDeep {};

struct Place {
  int line, column;
  size_t line_begin, line_end;  // without its newline
};

/// A newline belongs to the line that it ends.
Place place_of(std::string_view text, size_t at) {
  const size_t before = at == 0 ? text.npos : text.rfind('\n', at - 1);
  const size_t begin = before == text.npos ? 0 : before + 1;
  const auto lines = std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(begin), '\n');
  return {static_cast<int>(lines) + 1, static_cast<int>(at - begin) + 1, begin,
          std::min(text.find('\n', at), text.size())};
}

/// A list or a map that the parser is in, or a section.
struct Open {
  ConfigEntry* entry = nullptr;
  bool list = false;
  size_t at = 0;     // where its key, or it itself, begins in the text
  std::string path;  // "cluster.nodes[0]"
};

/// What CAF's parser calls. Keeps the open maps and lists; children move as they grow, but only the innermost
/// open entry grows, so pointers to those around it stay valid.
class Collector {
 public:
  Collector(std::string_view text, const State& state, ConfigEntry& root)
      : text_(text), state_(state), open_{{&root, false, 0, ""}} {}

  void key(std::string name) {
    // The parser stands behind the key, at '=', '{', '.' or ']'.
    const size_t found = text_.rfind(name, here());
    key_at_ = found == text_.npos ? 0 : found;
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

  /// The section that was begun last; CAF's guards end it before some errors.
  const std::string& section() const { return section_; }
  /// The lists and maps that are open inside the section, the outermost first.
  std::vector<Open> open_values() const {
    return {open_.begin() + static_cast<std::ptrdiff_t>(std::min<size_t>(2, open_.size())), open_.end()};
  }

 private:
  size_t here() const { return static_cast<size_t>(state_.i - text_.begin()); }

  ConfigEntry& add(Kind kind) {
    ConfigEntry& parent = *open_.back().entry;
    ConfigEntry entry;
    entry.kind = kind;
    const bool keyed = parent.kind == Kind::map;
    if (keyed) entry.key = std::move(key_);
    at_ = keyed ? key_at_ : here();
    if (!keyed && (kind == Kind::list || kind == Kind::map)) at_ = text_.find_last_of("[{", at_);
    const Place place = place_of(text_, at_);
    entry.line = place.line;
    entry.column = place.column;
    parent.children.push_back(std::move(entry));
    return parent.children.back();
  }

  Collector& begin(Kind kind) {
    if (open_.size() > config_depth_max) throw TooDeep{};
    const Open& around = open_.back();
    const bool listed = around.entry->kind == Kind::list;
    std::string path = around.path;
    if (listed) path += "[" + std::to_string(around.entry->children.size()) + "]";
    ConfigEntry& entry = add(kind);
    if (!listed) path += (path.empty() ? "" : ".") + entry.key;
    open_.push_back({&entry, kind == Kind::list, at_, std::move(path)});
    if (open_.size() == 2) section_ = entry.key;
    return *this;
  }

  void end() {
    if (open_.size() > 1) open_.pop_back();  // CAF's guards also call this while TooDeep passes through them
  }

  std::string_view text_;
  const State& state_;
  std::vector<Open> open_;
  std::string key_, section_;
  size_t key_at_ = 0, at_ = 0;
};

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
      return "the file ends in the middle of a value; complete it";
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

/// Where the parser stopped, and in what.
struct Stop {
  size_t at = 0;
  caf::pec code = caf::pec::success;
  bool too_deep = false;
  std::string section;
  std::vector<Open> open;
};

std::optional<Stop> read_once(std::string_view text, ConfigEntry& root) {
  root = {};
  State state(text.begin(), text.end());
  Collector collector(text, state, root);
  Stop stop;
  try {
    caf::detail::parser::read_ini(state, collector);
  } catch (const TooDeep&) {
    stop.too_deep = true;
  }
  if (!stop.too_deep && state.code == caf::pec::success && state.i == state.e) return std::nullopt;
  stop.at = static_cast<size_t>(state.i - text.begin());
  stop.code = state.code;
  stop.section = collector.section();
  stop.open = collector.open_values();
  return stop;
}

bool is_name(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '-'; }

std::string_view trimmed(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t");
  return first == text.npos ? std::string_view{}
                            : text.substr(first, text.find_last_not_of(" \t") + 1 - first);
}

/// `[gateway]` and nothing else, but for a comment.
bool is_section(std::string_view line) {
  line = trimmed(line.substr(0, line.find(';')));
  return line.size() > 2 && line.front() == '[' && line.back() == ']' &&
         std::all_of(line.begin() + 1, line.end() - 1, is_name);
}

/// The key of `key = …`; empty if the line does not begin like that.
std::string_view key_of(std::string_view line) {
  line = trimmed(line);
  const auto end = std::find_if_not(line.begin(), line.end(), is_name);
  return line.substr(0, static_cast<size_t>(end - line.begin()));
}

/// The value of `key = value` if it is letters without quotes.
std::string_view bare_word_of(std::string_view line) {
  const size_t equals = line.find('=');
  if (equals == line.npos || key_of(line) != trimmed(line.substr(0, equals))) return {};
  const std::string_view value = trimmed(line.substr(equals + 1, line.find_first_of(";#\r") - equals - 1));
  const bool letters = !value.empty() && std::isalpha(static_cast<unsigned char>(value[0]));
  return letters && value.find_first_of("\"'[]{}<>") == value.npos ? value : std::string_view{};
}

void blank(std::string& text, size_t begin, size_t end) {
  for (size_t i = begin; i < end && i < text.size(); ++i)
    if (text[i] != '\n') text[i] = ' ';
}

/// Blanks from there up to the next line that begins a section.
void blank_to_section(std::string& text, size_t begin, size_t at) {
  size_t end = place_of(text, at).line_end;
  while (end < text.size()) {
    const Place next = place_of(text, end + 1);
    if (is_section(std::string_view(text).substr(next.line_begin, next.line_end - next.line_begin))) break;
    end = next.line_end;
  }
  blank(text, begin, end);
}

/// Says what is wrong where the parser stopped inside a list or a map, and takes that value out of the text.
ConfigSyntaxError take_out_value(std::string& text, const Stop& stop, const Place& place) {
  const std::string line = text.substr(place.line_begin, place.line_end - place.line_begin);
  const Open& value = stop.open.front();
  ConfigSyntaxError error{{place.line, place.column, ""}, value.path, ""};
  // What was begun on the line itself may be a section's own bracket.
  auto unclosed = std::find_if(stop.open.rbegin(), stop.open.rend(),
                               [&](const Open& o) { return o.at < place.line_begin; });
  const bool at_end = stop.at == text.size();
  if (at_end) unclosed = stop.open.rbegin();
  const bool is_list = unclosed != stop.open.rend() && unclosed->list;
  const bool next_key = is_list && !key_of(line).empty() && trimmed(line).find('=') != line.npos;
  if (unclosed != stop.open.rend() && (at_end || is_section(line) || next_key)) {
    const Place begin = place_of(text, unclosed->at);
    error.line = begin.line;
    error.column = begin.column;
    error.text = std::string(is_list ? "the list `" : "the map `") + unclosed->path +
                 "` is not closed before " +
                 (at_end ? "the end of the file" : "line " + std::to_string(place.line)) + "; put " +
                 (is_list ? "]" : "}") + " at its end";
    blank(text, value.at, at_end ? text.size() : place.line_begin);
    return error;
  }
  const char at = at_end ? '\0' : text[stop.at];
  error.text = stop.too_deep ? "lists and maps lie more than " + std::to_string(config_depth_max) +
                                   " deep; flatten them"
                             : explain(stop.code, line, at) + " (in `" + value.path + "`)";
  blank_to_section(text, value.at, stop.at);
  return error;
}

/// Says what is wrong where the parser stopped, and takes it out of the text.
ConfigSyntaxError take_out(std::string& text, const Stop& stop, bool line_is_known) {
  const Place place = place_of(text, stop.at);
  const char at = stop.at < text.size() ? text[stop.at] : '\0';
  const std::string line = text.substr(place.line_begin, place.line_end - place.line_begin);
  ConfigSyntaxError error{{place.line, place.column, explain(stop.code, line, at)}, "", ""};
  if (at == '\r') {
    std::replace(text.begin(), text.end(), '\r', ' ');
    return error;
  }
  if (at == '#' && !line_is_known) {
    blank(text, stop.at, place.line_end);
    return error;
  }
  if (!stop.open.empty()) return take_out_value(text, stop, place);
  if (trimmed(line).starts_with('[')) {
    blank_to_section(text, place.line_begin, stop.at);  // whose keys these are nobody knows
    return error;
  }
  if (const auto key = key_of(line); !key.empty()) error.key = stop.section + "." + std::string(key);
  error.bare_word = bare_word_of(line);
  blank(text, place.line_begin, place.line_end);
  return error;
}

/// Why these bytes are no configuration at all.
std::optional<ConfigSyntaxError> no_text(std::string_view text) {
  const auto refuse = [](const Place& place, std::string why) {
    return ConfigSyntaxError{{place.line, place.column, std::move(why)}, "", ""};
  };
  if (text.size() > config_bytes_max)
    return refuse({}, "the file has " + std::to_string(text.size()) + " bytes; at most " +
                          std::to_string(config_bytes_max) + " are read");
  if (text.starts_with("\xff\xfe") || text.starts_with("\xfe\xff"))
    return refuse(place_of(text, 0), "the file is UTF-16; save it as UTF-8");
  // CAF takes a zero byte for the end of the text and would ignore what follows.
  if (const size_t zero = text.find('\0'); zero != text.npos)
    return refuse(place_of(text, zero), "zero byte; cluster.conf is plain text");
  return std::nullopt;
}

}  // namespace

ParsedConfig parse_config(std::string_view given) {
  ParsedConfig out;
  auto& errors = out.syntax_errors;
  if (auto refused = no_text(given)) {
    errors.push_back(std::move(*refused));
    out.given_up = true;
    return out;
  }
  std::string text(given);
  if (text.starts_with("\xef\xbb\xbf")) {
    errors.push_back(
        {{1, 1, "a byte order mark (BOM) stands before the text; save the file as UTF-8 without one"},
         "",
         ""});
    blank(text, 0, 3);
  }
  size_t rounds = 0;
  while (const auto stop = read_once(text, out.root)) {
    if (errors.size() == config_syntax_errors_max || ++rounds > 2 * config_syntax_errors_max) {
      out.root = {};
      out.given_up = true;
      break;
    }
    const int line = place_of(text, stop->at).line;
    const bool known =
        std::any_of(errors.begin(), errors.end(), [&](const auto& e) { return e.line == line; });
    auto error = take_out(text, *stop, known);
    if (!known) errors.push_back(std::move(error));
  }
  return out;
}

}  // namespace convoy::actors
