#pragma once
// The objects of one JSON file, read with errors that name the file and the key. Used by the readers of
// tokenizer.json and of what stands beside it.

#include <boost/json.hpp>
#include <charconv>
#include <string>
#include <string_view>

#include "model/error.hpp"
#include "model/json.hpp"
#include "model/tokenizer/tokenizer_parts.hpp"

namespace convoy::model {

namespace json = boost::json;

class JsonReader {
 public:
  explicit JsonReader(std::string where) : where_(std::move(where)) {}

  [[noreturn]] void fail(const std::string& what) const {
    throw InputError(what, where_, "check that the file is whole and a BPE tokenizer");
  }
  [[noreturn]] void unsupported(std::string_view part, std::string_view name) const {
    throw InputError("the " + std::string(part) + " " + in_quotes(name) + " is not supported", where_,
                     "use a model with a BPE tokenizer, byte-level or sentencepiece-like");
  }

  const json::object& object(const json::value& value, std::string_view name) const {
    if (!value.is_object()) fail(std::string(name) + " is not an object");
    return value.get_object();
  }
  const json::array& array(const json::value& value, std::string_view name) const {
    if (!value.is_array()) fail(std::string(name) + " is not an array");
    return value.get_array();
  }
  std::string_view string(const json::value& value, std::string_view name) const {
    if (!value.is_string()) fail(std::string(name) + " is not a string");
    return value.get_string();
  }
  int32_t id(const json::value& value, std::string_view name) const {
    if (!value.is_int64() || value.get_int64() < 0 || value.get_int64() >= token_ids_max) {
      fail("the id of " + in_quotes(name) + " is not a number in 0.." + std::to_string(token_ids_max - 1));
    }
    return static_cast<int32_t>(value.get_int64());
  }
  /// An id that is the key of an object.
  int32_t id(std::string_view key) const {
    int32_t id = -1;
    const auto [rest, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || rest != key.data() + key.size() || id < 0 || id >= token_ids_max)
      fail(in_quotes(key) + " is not an id in 0.." + std::to_string(token_ids_max - 1));
    return id;
  }
  const json::value& field(const json::object& object, std::string_view key) const {
    const json::value* value = object.if_contains(key);
    if (!value) fail("there is no " + std::string(key));
    return *value;
  }
  /// Null counts as absent.
  bool flag(const json::object& object, std::string_view key, bool absent) const {
    const json::value* value = object.if_contains(key);
    if (!value || value->is_null()) return absent;
    if (!value->is_bool()) fail(std::string(key) + " is neither true nor false");
    return value->get_bool();
  }
  std::string_view type(const json::object& object, std::string_view name) const {
    return string(field(object, "type"), std::string(name) + "'s type");
  }

 private:
  std::string where_;
};

/// An entry of added_tokens, or of added_tokens_decoder, which has the id as its key.
AddedToken read_added_token(const json::object& token, int32_t id, const JsonReader& read);

}  // namespace convoy::model
