// What is said about a text that is not JSON: where, and of what kind it is.

#include "model/json.hpp"

#include <boost/test/unit_test.hpp>

#include "model/error.hpp"

using namespace convoy;

namespace {

std::string problem_of(std::string_view text) {
  try {
    model::parse_json(text, "file");
  } catch (const InputError& e) {
    return e.problem();
  }
  return "";
}

void expect(std::string_view text, const std::string& words) {
  const std::string problem = problem_of(text);
  BOOST_TEST(problem.find(words) != std::string::npos, "no '" << words << "' in: " << problem);
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_syntax_error_is_told_with_its_line_and_column_and_kind) {
  expect("{\"a\": 1,\n \"b\": 2,\n}", "at line 3, column 1 (byte 18): a comma stands before '}'");
  expect("[1, 2, ]", "at line 1, column 8 (byte 7): a comma stands before ']'");
  expect("{\"a\": [1, 2", "the text ends in the middle of a value");
  expect("{'a': 1}", "at line 1, column 2 (byte 1): a single quote");
  expect("{\"a\": None}", "column 7 (byte 6): unexpected 'N'");
  expect("{\"a\": 1} {", "(byte 9): more text stands behind the value's end");
  expect("{\"a\": \"x\ny\"}", "at line 1, column 9 (byte 8): a control character");
}

BOOST_AUTO_TEST_CASE(a_text_of_another_format_is_named) {
  expect("", "is empty");
  expect(" \n", "is empty");
  expect("\x1f\x8b\x08 and more", "gzip");
  expect("\xef\xbb\xbf{}", "byte order mark (BOM)");
  expect("\xff\xfe{\0}\0", "UTF-16");
  expect(std::string_view("{\0}\0", 4), "UTF-16");
  expect("{\"a\": \"caf\xe9\"}",
         "at line 1, column 11 (byte 10): the byte \"\\xe9\" is not UTF-8 (Latin-1?)");
  expect("{\"a\": \"caf\xc3\xa9\", \"b\": \"caf\xe9 au lait\"}", "(byte 24): the byte \"\\xe9\"");
}
