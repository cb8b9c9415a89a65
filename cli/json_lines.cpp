#include "cli/json_lines.hpp"

#include <boost/json/serialize.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <iostream>

#include "model/error.hpp"
#include "model/json.hpp"

namespace convoy::cli {

void filter_json_lines(
    const std::function<boost::json::object(const boost::json::object&, const std::string&)>& answer) {
  std::ios::sync_with_stdio(false);
  std::string line;
  for (size_t number = 1; std::getline(std::cin, line); ++number) {
    const std::string where = "standard input, line " + std::to_string(number);
    if (line.size() > line_bytes_max) {
      throw InputError("the line has " + std::to_string(line.size()) + " bytes, at most " +
                           std::to_string(line_bytes_max) + " are read",
                       where, "split the text");
    }
    if (line.find_first_not_of(" \t\r") == line.npos) continue;
    const boost::json::value value = model::parse_json(line, where);
    if (!value.is_object()) throw InputError("is not a JSON object", where, "give one object a line");
    std::cout << boost::json::serialize(answer(value.get_object(), where)) << '\n';
  }
  if (std::cin.bad())
    throw InputError(std::string("cannot be read: ") + std::strerror(errno), "standard input",
                     "check where it comes from");
  if (!std::cout.flush())
    throw InputError(std::string("cannot be written: ") + std::strerror(errno), "standard output",
                     "check where it goes");
}

std::string string_field(const boost::json::object& object, std::string_view key, const std::string& where) {
  const boost::json::value* value = object.if_contains(key);
  if (!value || !value->is_string()) {
    throw InputError("\"" + std::string(key) + "\" is " + (value ? "not a string" : "missing"), where,
                     "give it as a string");
  }
  return std::string(value->get_string());
}

}  // namespace convoy::cli
