#pragma once
// The tree of a template: what the parser makes and the interpreter walks. Immutable; any thread.

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "model/chat/jinja/operators.hpp"
#include "model/chat/jinja/value.hpp"

namespace convoy::model::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<const Expression>;

struct Constant {
  Value value;
};
struct Name {
  std::string name;
};
struct Elements {
  std::vector<ExpressionPtr> elements;
  List::Kind kind;
};
struct Entries {
  std::vector<std::pair<ExpressionPtr, ExpressionPtr>> entries;
};
struct Attribute {
  ExpressionPtr object;
  std::string name;
};
struct Item {
  ExpressionPtr object, index;
};
struct Slice {
  ExpressionPtr object, start, stop, step;  // null where absent
};
struct ArgumentList {
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
};
struct CallExpression {
  ExpressionPtr callee;
  ArgumentList arguments;
};
struct FilterExpression {
  ExpressionPtr operand;  // null: what a block rendered
  const Builtin* filter;
  ArgumentList arguments;
};
struct TestExpression {
  ExpressionPtr operand;
  const Builtin* test;
  ArgumentList arguments;
};
enum class Sign { minus, plus };
struct Signed {
  Sign sign;
  ExpressionPtr operand;
};
struct Not {
  ExpressionPtr operand;
};
struct Logical {
  bool is_and;
  ExpressionPtr left, right;
};
struct Calculation {
  Arithmetic operation;
  ExpressionPtr left, right;
};
struct Concatenation {
  std::vector<ExpressionPtr> parts;
};
enum class Comparing { equal, unequal, less, at_most, greater, at_least, in, not_in };
struct Comparison {
  ExpressionPtr first;
  std::vector<std::pair<Comparing, ExpressionPtr>> rest;
};
struct Conditional {
  ExpressionPtr test, then, otherwise;  // otherwise: null where absent
};

struct Expression {
  int line;
  size_t height;  // of the tree below it
  std::variant<Constant, Name, Elements, Entries, Attribute, Item, Slice, CallExpression, FilterExpression,
               TestExpression, Signed, Not, Logical, Calculation, Concatenation, Comparison, Conditional>
      node;
};

/// Throws InputError at nesting_max.
ExpressionPtr make_expression(int line, decltype(Expression::node) node);
[[noreturn]] void refuse_nesting(int line);

struct Statement;
using Body = std::vector<Statement>;

/// What `set` and `for` give values to: a name, an attribute of a namespace, or a tuple of names.
struct Target {
  std::vector<std::string> names;
  bool unpacks = false;
  std::optional<std::string> attribute = {};  // of the namespace names[0]
};

struct TextStatement {
  Text text;
};
struct OutputStatement {
  ExpressionPtr value;
};
struct IfStatement {
  std::vector<std::pair<ExpressionPtr, Body>> branches;
  Body otherwise;
};
struct ForStatement {
  Target target;
  ExpressionPtr iterable, condition;  // condition: null where absent
  Body body, otherwise;
};
struct SetStatement {
  Target target;
  ExpressionPtr value;
};
/// What its body renders, through filters (of which the innermost has no operand), to a variable or to the
/// output.
struct BlockStatement {
  std::optional<Target> target;
  ExpressionPtr filters;  // null where there are none
  Body body;
};
struct MacroStatement {
  std::string name;
  struct Parameter {
    std::string name;
    ExpressionPtr otherwise;  // null where absent
  };
  std::vector<Parameter> parameters;
  Body body;
};
struct BreakStatement {};
struct ContinueStatement {};

struct Statement {
  int line;
  std::variant<TextStatement, OutputStatement, IfStatement, ForStatement, SetStatement, BlockStatement,
               MacroStatement, BreakStatement, ContinueStatement>
      node;
};

}  // namespace convoy::model::jinja
