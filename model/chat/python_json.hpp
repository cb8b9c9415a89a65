#pragma once
// JSON as chat templates write it (`tojson`): spelled as Python's json.dumps(value, ensure_ascii=False) does.

#include <boost/json/value.hpp>
#include <cstddef>
#include <string>

namespace convoy::model {

/// One line, or with each element on a line of its own, indented by that many blanks a level. Throws
/// InputError at `where` for a number whose spelling its value does not tell: one that is not finite, or an
/// integer beyond 64 bits.
std::string python_json(const boost::json::value& value, const std::string& where, size_t indent = 0);

/// repr() of a float.
std::string python_float(double value);
/// Whether a number was kept as it stood in the JSON text: an integer beyond 64 bits becomes a float and is
/// not.
bool is_kept_exactly(double value);
/// An ASCII character as it stands in a JSON string.
std::string json_escaped(char c);

}  // namespace convoy::model
