#pragma once
// Values as text: str(), repr() and json.dumps() as Python has them. What a string says keeps its origin;
// what is written around it, and numbers, count as values.

#include <optional>
#include <string>

#include "model/chat/jinja/value.hpp"

namespace convoy::model::jinja {

/// str(): what `{{ value }}` prints. A string is itself. Throws InputError for what has no text, such as a
/// namespace.
TextPtr to_text(Meter& meter, const Value& value);

struct JsonStyle {
  std::optional<std::string> indent = {};  // of a level; none: all on one line
  std::string item_separator = ", ", key_separator = ": ";
  bool ascii = false, sorted = false;
};
Text to_json(Meter& meter, const Value& value, const JsonStyle& style);

}  // namespace convoy::model::jinja
