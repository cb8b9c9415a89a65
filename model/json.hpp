#pragma once
// JSON from outside (config.json, safetensors headers and indexes) with the checks that Boost.JSON leaves to
// us.

#include <boost/json/value.hpp>
#include <boost/system/error_code.hpp>
#include <string>
#include <string_view>

namespace convoy::model {

/// Limits against documents made to exhaust us; real headers stay far below.
inline constexpr size_t json_depth_max = 32;
inline constexpr size_t json_values_max = 8'000'000;

/// Parses a whole document. Throws InputError at `where` for bad syntax or UTF-8, depth or count over the
/// limits, and for a key that stands twice in one object (Boost.JSON would silently keep one of the two).
boost::json::value parse_json(std::string_view text, const std::string& where);

/// Why a text is not JSON, where and of what kind: "is not valid JSON at line 3, column 7 (byte 40): a comma
/// stands before '}'". used, error: where Boost.JSON's parser stopped and what it said; no error: the value
/// ended there. For files and for requests.
std::string json_problem(std::string_view text, size_t used, const boost::system::error_code& error);

/// A name from a file as a message may show it: quoted, one line, printable, cut to 80 bytes.
std::string in_quotes(std::string_view name);

}  // namespace convoy::model
