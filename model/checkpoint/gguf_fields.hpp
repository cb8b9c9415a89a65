#pragma once
// Metadata: what a GGUF says, asked for by key and type, with an error that names file and key. Internal to
// model/, as config_fields.hpp is for config.json.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "model/error.hpp"
#include "model/format/gguf_value.hpp"

namespace convoy::model {

/// Typed metadata. Writers differ in the width and sign of integers, so any integer type is one here.
class Metadata {
 public:
  Metadata(const GgufMetadata& values, std::string file) : values_(values), file_(std::move(file)) {}

  const GgufValue* find(std::string_view key) const {
    const auto found = values_.find(key);
    return found == values_.end() ? nullptr : &found->second;
  }
  [[noreturn]] void fail(std::string_view key, const std::string& problem, std::string mend) const {
    throw InputError(problem, file_ + ": metadata " + std::string(key), std::move(mend));
  }

  std::optional<int64_t> integer(std::string_view key) const {
    const GgufValue* value = find(key);
    if (!value) return std::nullopt;
    if (const auto* number = std::get_if<int64_t>(&value->value)) return *number;
    const auto* number = std::get_if<uint64_t>(&value->value);
    if (!number || *number > static_cast<uint64_t>(INT64_MAX))
      fail(key, "is not a whole number", "convert the file anew");
    return static_cast<int64_t>(*number);
  }
  std::optional<double> number(std::string_view key) const {
    const GgufValue* value = find(key);
    if (!value) return std::nullopt;
    if (const auto* number = std::get_if<double>(&value->value)) return *number;
    return static_cast<double>(*integer(key));
  }
  std::optional<std::string> text(std::string_view key) const {
    const GgufValue* value = find(key);
    if (!value) return std::nullopt;
    const auto* text = std::get_if<std::string>(&value->value);
    if (!text) fail(key, "is not a string", "convert the file anew");
    return *text;
  }
  /// False when absent.
  bool truth(std::string_view key) const {
    const GgufValue* value = find(key);
    const bool* truth = value ? std::get_if<bool>(&value->value) : nullptr;
    if (value && !truth) fail(key, "is neither true nor false", "convert the file anew");
    return truth && *truth;
  }
  int64_t need_integer(std::string_view key) const { return need(integer(key), key); }
  double need_number(std::string_view key) const { return need(number(key), key); }

 private:
  template <class T>
  T need(std::optional<T> value, std::string_view key) const {
    if (!value) fail(key, "is missing", "convert the file anew");
    return *value;
  }

  const GgufMetadata& values_;
  std::string file_;
};

}  // namespace convoy::model
