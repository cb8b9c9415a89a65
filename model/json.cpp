#include "model/json.hpp"

#include <boost/json/basic_parser_impl.hpp>
#include <boost/json/monotonic_resource.hpp>
#include <boost/json/value_stack.hpp>
#include <charconv>
#include <optional>
#include <string>
#include <unordered_set>
#include <vector>

#include "model/error.hpp"

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
  if (error)
    throw InputError("is not valid JSON at byte " + std::to_string(used) + ": " + error.message(), where,
                     mend);
  if (used < text.size())
    throw InputError("is not valid JSON: its end stands at byte " + std::to_string(used), where, mend);
  return seen.stack.release();
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
