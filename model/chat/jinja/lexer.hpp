#pragma once
// A template's text in tokens, with the white space control of jinja2 as transformers sets it up
// (trim_blocks, lstrip_blocks). Pure; any thread.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace convoy::model::jinja {

struct Token {
  enum class Kind {
    text,  // between tags, as it is printed
    output_begin,
    output_end,
    block_begin,
    block_end,
    name,
    string,  // without quotes and escapes
    integer,
    real,
    mark,  // an operator or punctuation
    end,
  };

  Kind kind;
  int line;
  std::string text = {};
  int64_t integer = 0;
  double real = 0;

  bool is(Kind wanted, std::string_view what) const { return kind == wanted && text == what; }
};

/// Ends with Kind::end. Throws InputError at the template's line.
std::vector<Token> tokens_of(std::string_view source);

}  // namespace convoy::model::jinja
