#include "model/json.hpp"

#include <algorithm>
#include <boost/json/basic_parser_impl.hpp>
#include <boost/json/monotonic_resource.hpp>
#include <boost/json/value_stack.hpp>
#include <charconv>
#include <optional>
#include <string>
#include <unordered_set>
#include <vector>

#include "model/error.hpp"
#include "model/utf8.hpp"

namespace convoy::model {

namespace {

namespace json = boost::json;

/// Boost.JSON's event handler that builds the value, counts its parts and finds a key that stands twice in an
/// object. Boost's own reading of a number may be off by its last bit.
struct Builder {
  static constexpr size_t max_object_size = json_values_max, max_array_size = json_values_max;
  static constexpr size_t max_key_size = 1 << 20, max_string_size = size_t(1) << 30;

  json::value_stack stack;
  std::vector<std::unordered_set<std::string>> keys;  // of the objects that are open
  std::string key, number;
  std::optional<std::string> duplicate;
  size_t values = 0;
  bool too_many = false;

  using Error = boost::system::error_code;
  bool count(Error& error) {
    if (++values <= json_values_max) return true;
    too_many = true;
    error = json::error::exception;
    return false;
  }

  bool on_document_begin(Error&) {
    // Block after block instead of an allocation a value: an index names a hundred thousand tensors.
    stack.reset(json::make_shared_resource<json::monotonic_resource>());
    return true;
  }
  bool on_document_end(Error&) { return true; }
  bool on_object_begin(Error& error) {
    keys.emplace_back();
    return count(error);
  }
  bool on_object_end(size_t size, Error&) {
    keys.pop_back();
    stack.push_object(size);
    return true;
  }
  bool on_array_begin(Error& error) { return count(error); }
  bool on_array_end(size_t size, Error&) {
    stack.push_array(size);
    return true;
  }
  bool on_key_part(json::string_view part, size_t, Error&) {
    key.append(part.data(), part.size());
    return true;
  }
  bool on_key(json::string_view part, size_t, Error& error) {
    key.append(part.data(), part.size());
    if (!keys.back().insert(key).second) {
      duplicate = key;
      error = json::error::exception;
      return false;
    }
    stack.push_key(key);
    key.clear();
    return true;
  }
  bool on_string_part(json::string_view part, size_t, Error&) {
    stack.push_chars(part);
    return true;
  }
  bool on_string(json::string_view part, size_t, Error& error) {
    stack.push_string(part);
    return count(error);
  }
  bool on_number_part(json::string_view part, Error&) {
    number.append(part.data(), part.size());
    return true;
  }
  bool on_int64(int64_t value, json::string_view, Error& error) {
    number.clear();
    stack.push_int64(value);
    return count(error);
  }
  bool on_uint64(uint64_t value, json::string_view, Error& error) {
    number.clear();
    stack.push_uint64(value);
    return count(error);
  }
  bool on_double(double value, json::string_view part, Error& error) {
    number.append(part.data(), part.size());
    std::from_chars(number.data(), number.data() + number.size(), value);  // out of range: as Boost has it
    number.clear();
    stack.push_double(value);
    return count(error);
  }
  bool on_bool(bool value, Error& error) {
    stack.push_bool(value);
    return count(error);
  }
  bool on_null(Error& error) {
    stack.push_null();
    return count(error);
  }
  bool on_comment_part(json::string_view, Error&) { return true; }
  bool on_comment(json::string_view, Error&) { return true; }
};

}  // namespace

boost::json::value parse_json(std::string_view text, const std::string& where) {
  json::parse_options options;
  options.max_depth = json_depth_max;
  json::basic_parser<Builder> parser(options);
  boost::system::error_code error;
  const size_t used = parser.write_some(false, text.data(), text.size(), error);
  Builder& seen = parser.handler();
  const std::string mend = "the file is damaged or was not made for this; fetch it again";
  if (seen.duplicate)
    throw InputError("the key " + in_quotes(*seen.duplicate) + " stands twice in one object", where, mend);
  if (seen.too_many)
    throw InputError("holds more than " + std::to_string(json_values_max) + " JSON values", where, mend);
  if (error || used < text.size()) throw InputError(json_problem(text, used, error), where, mend);
  return seen.stack.release();
}

namespace {

/// Of a text that is none: what its first bytes say.
const char* other_format(std::string_view text) {
  if (text.find_first_not_of(" \t\r\n") == text.npos) return "is empty, not JSON";
  if (text.starts_with("\x1f\x8b")) return "is not JSON but gzip-compressed; unpack it first";
  if (text.starts_with("\xef\xbb\xbf"))
    return "is not JSON: it begins with a byte order mark (BOM); leave that out";
  const bool zero_beside_letter = text.size() > 1 && (text[0] == '\0') != (text[1] == '\0');
  if (text.starts_with("\xff\xfe") || text.starts_with("\xfe\xff") || zero_beside_letter)
    return "is not JSON but UTF-16; write it as UTF-8";
  return nullptr;
}

/// What stands at `at`, where the parser stopped.
std::string kind_of(std::string_view text, size_t at, const boost::system::error_code& error) {
  if (!error) return "more text stands behind the value's end";
  if (error == json::error::incomplete) return "the text ends in the middle of a value (cut off?)";
  if (error != json::error::syntax || at >= text.size()) return error.message();
  const size_t before = at == 0 ? text.npos : text.find_last_not_of(" \t\r\n", at - 1);
  const char c = text[at];
  const auto byte = static_cast<unsigned char>(c);
  if ((c == '}' || c == ']') && before != text.npos && text[before] == ',')
    return std::string("a comma stands before '") + c + "'";
  if (byte < 0x20) return "a control character stands raw in a text; write it as \\n, \\t or \\u00XX";
  if (c == '\'') return "a single quote; texts and keys stand in double quotes";
  if (byte >= 0x7f) return "an unexpected character outside of texts";
  return std::string("unexpected '") + c + "'";
}

}  // namespace

std::string json_problem(std::string_view text, size_t used, const boost::system::error_code& error) {
  if (const char* format = other_format(text)) return format;
  // The parser stops at the character's first byte, or at the one that does not go on.
  constexpr size_t character_bytes_max = 4;
  const bool cut_off = error == json::error::incomplete;
  const size_t invalid =
      error && !cut_off ? find_invalid_utf8(text.substr(0, used + character_bytes_max)) : text.npos;
  const size_t at = std::min(invalid, used);  // a character cut off behind `used` is not meant
  const size_t newline = at == 0 ? text.npos : text.rfind('\n', at - 1);
  const auto line = std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(at), '\n') + 1;
  std::string problem = "is not valid JSON at line " + std::to_string(line) + ", column " +
                        std::to_string(newline == text.npos ? at + 1 : at - newline) + " (byte " +
                        std::to_string(at) + "): ";
  if (invalid <= used && invalid < text.size())
    return problem + "the byte " + in_quotes(text.substr(invalid, 1)) + " is not UTF-8 (Latin-1?)";
  return problem + kind_of(text, at, error);
}

std::string in_quotes(std::string_view name) {
  constexpr size_t shown_bytes_max = 80;
  std::string text = "\"";
  for (const char c : name.substr(0, shown_bytes_max)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7f) {
      text += c;
    } else {
      text += "\\x";
      text += "0123456789abcdef"[byte >> 4];
      text += "0123456789abcdef"[byte & 15];
    }
  }
  return text + (name.size() > shown_bytes_max ? "…\"" : "\"");
}

}  // namespace convoy::model
