#pragma once
// The parser's lower half: expressions, in the order in which Jinja's operators bind. Internal to parser.cpp.

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/chat/jinja/lexer.hpp"
#include "model/chat/jinja/syntax.hpp"

namespace convoy::model::jinja {

class ExpressionParser {
 public:
  explicit ExpressionParser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

 protected:
  /// With Jinja's inline if.
  ExpressionPtr expression();
  /// Without.
  ExpressionPtr simple_expression() { return logical_or(); }
  /// An expression, or a tuple of several without parentheses.
  ExpressionPtr tuple(bool with_conditional);
  /// The filters and tests behind a value; null: behind what a block renders.
  ExpressionPtr filters(ExpressionPtr operand);
  /// One filter, from its name on.
  ExpressionPtr filter(ExpressionPtr operand);
  ArgumentList arguments();

  const Token& current() const { return tokens_[at_]; }
  const Token& ahead() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  const Token& take() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
  bool at_mark(std::string_view mark) const { return current().is(Token::Kind::mark, mark); }
  bool at_name(std::string_view name) const { return current().is(Token::Kind::name, name); }
  bool take_mark(std::string_view mark);
  bool take_name(std::string_view name);
  void expect_mark(std::string_view mark);
  std::string expect_name(std::string_view what);
  [[noreturn]] void unexpected(std::string_view wanted) const;

  /// One level of nesting in the parser.
  class Level {
   public:
    explicit Level(ExpressionParser& parser);
    ~Level() { parser_.depth_--; }
    Level(const Level&) = delete;

   private:
    ExpressionParser& parser_;
  };

 private:
  ExpressionPtr logical_or();
  ExpressionPtr logical_and();
  ExpressionPtr logical_not();
  ExpressionPtr comparison();
  ExpressionPtr sum();
  ExpressionPtr concatenation();
  ExpressionPtr product();
  ExpressionPtr power();
  ExpressionPtr unary(bool with_filters);
  ExpressionPtr primary();
  ExpressionPtr postfix(ExpressionPtr operand);
  ExpressionPtr subscript(ExpressionPtr object);
  ExpressionPtr test(ExpressionPtr operand);
  ExpressionPtr parentheses();
  ExpressionPtr list();
  ExpressionPtr dictionary();

  std::vector<Token> tokens_;
  size_t at_ = 0, depth_ = 0;
};

}  // namespace convoy::model::jinja
