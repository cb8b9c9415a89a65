#pragma once
// Filters of JSON lines, as `convoy tokenize` and `convoy render` are: one object a line in, one out.

#include <boost/json/object.hpp>
#include <functional>
#include <string>

namespace convoy::cli {

/// Longer lines are refused.
inline constexpr size_t line_bytes_max = 64 << 20;

/// Calls `answer` with each object on standard input and the line's name for errors; prints what it returns.
/// Blank lines are skipped. Throws InputError for a line that is not a JSON object.
void filter_json_lines(const std::function<boost::json::object(const boost::json::object& line,
                                                               const std::string& where)>& answer);

/// A field of the line. Throws InputError if it is absent or of another type.
std::string string_field(const boost::json::object& object, std::string_view key, const std::string& where);

}  // namespace convoy::cli
