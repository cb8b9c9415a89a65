#include "model/chat/jinja/expression_parser.hpp"

#include <algorithm>

#include "model/chat/jinja/builtin.hpp"
#include "model/json.hpp"

namespace convoy::model::jinja {

using Kind = Token::Kind;

ExpressionParser::Level::Level(ExpressionParser& parser) : parser_(parser) {
  if (parser.depth_ == nesting_max) refuse_nesting(parser.current().line);
  parser.depth_++;
}

bool ExpressionParser::take_mark(std::string_view mark) {
  if (!at_mark(mark)) return false;
  take();
  return true;
}

bool ExpressionParser::take_name(std::string_view name) {
  if (!at_name(name)) return false;
  take();
  return true;
}

void ExpressionParser::expect_mark(std::string_view mark) {
  if (!take_mark(mark)) unexpected("`" + std::string(mark) + "`");
}

std::string ExpressionParser::expect_name(std::string_view what) {
  if (current().kind != Kind::name) unexpected(what);
  return take().text;
}

void ExpressionParser::unexpected(std::string_view wanted) const {
  const Token& token = current();
  const bool shown = token.kind == Kind::name || token.kind == Kind::mark || token.kind == Kind::string ||
                     token.kind == Kind::integer || token.kind == Kind::real;
  fail_at(token.line, "has " + (shown ? in_quotes(token.text) : std::string("the end of a tag")) + " where " +
                          std::string(wanted) + " is expected");
}

ExpressionPtr ExpressionParser::expression() {
  const Level level(*this);
  ExpressionPtr value = logical_or();
  while (take_name("if")) {
    const int line = current().line;
    ExpressionPtr test = logical_or();
    ExpressionPtr otherwise = take_name("else") ? expression() : nullptr;
    value = make_expression(line, Conditional{std::move(test), std::move(value), std::move(otherwise)});
  }
  return value;
}

ExpressionPtr ExpressionParser::logical_or() {
  ExpressionPtr left = logical_and();
  for (int line = current().line; take_name("or"); line = current().line)
    left = make_expression(line, Logical{false, std::move(left), logical_and()});
  return left;
}

ExpressionPtr ExpressionParser::logical_and() {
  ExpressionPtr left = logical_not();
  for (int line = current().line; take_name("and"); line = current().line)
    left = make_expression(line, Logical{true, std::move(left), logical_not()});
  return left;
}

ExpressionPtr ExpressionParser::logical_not() {
  const Level level(*this);
  const int line = current().line;
  return take_name("not") ? make_expression(line, Not{logical_not()}) : comparison();
}

ExpressionPtr ExpressionParser::comparison() {
  static constexpr std::pair<std::string_view, Comparing> marks[] = {
      {"==", Comparing::equal},   {"!=", Comparing::unequal}, {"<", Comparing::less},
      {"<=", Comparing::at_most}, {">", Comparing::greater},  {">=", Comparing::at_least}};
  const int line = current().line;
  ExpressionPtr first = sum();
  std::vector<std::pair<Comparing, ExpressionPtr>> rest;
  while (true) {
    const auto* mark = std::find_if(std::begin(marks), std::end(marks),
                                    [this](const auto& each) { return at_mark(each.first); });
    Comparing by;
    if (mark != std::end(marks)) {
      take();
      by = mark->second;
    } else if (take_name("in")) {
      by = Comparing::in;
    } else if (at_name("not") && ahead().is(Kind::name, "in")) {
      take();
      take();
      by = Comparing::not_in;
    } else {
      break;
    }
    rest.emplace_back(by, sum());
  }
  return rest.empty() ? std::move(first)
                      : make_expression(line, Comparison{std::move(first), std::move(rest)});
}

ExpressionPtr ExpressionParser::sum() {
  ExpressionPtr left = concatenation();
  while (at_mark("+") || at_mark("-")) {
    const Token& mark = take();
    const Arithmetic by = mark.text == "+" ? Arithmetic::add : Arithmetic::subtract;
    left = make_expression(mark.line, Calculation{by, std::move(left), concatenation()});
  }
  return left;
}

ExpressionPtr ExpressionParser::concatenation() {
  const int line = current().line;
  std::vector<ExpressionPtr> parts;
  do parts.push_back(product());
  while (take_mark("~"));
  return parts.size() == 1 ? std::move(parts.front())
                           : make_expression(line, Concatenation{std::move(parts)});
}

ExpressionPtr ExpressionParser::product() {
  ExpressionPtr left = power();
  while (at_mark("*") || at_mark("/") || at_mark("//") || at_mark("%")) {
    const Token& mark = take();
    const Arithmetic by = mark.text == "*"   ? Arithmetic::multiply
                          : mark.text == "/" ? Arithmetic::divide
                          : mark.text == "%" ? Arithmetic::modulo
                                             : Arithmetic::floor_divide;
    left = make_expression(mark.line, Calculation{by, std::move(left), power()});
  }
  return left;
}

ExpressionPtr ExpressionParser::power() {
  ExpressionPtr left = unary(true);
  for (int line = current().line; take_mark("**"); line = current().line)
    left = make_expression(line, Calculation{Arithmetic::power, std::move(left), unary(true)});
  return left;
}

ExpressionPtr ExpressionParser::unary(bool with_filters) {
  const Level level(*this);
  const int line = current().line;
  ExpressionPtr value;
  if (take_mark("-"))
    value = make_expression(line, Signed{Sign::minus, unary(false)});
  else if (take_mark("+"))
    value = make_expression(line, Signed{Sign::plus, unary(false)});
  else
    value = primary();
  value = postfix(std::move(value));
  return with_filters ? filters(std::move(value)) : std::move(value);
}

ExpressionPtr ExpressionParser::primary() {
  const Token& token = current();
  const int line = token.line;
  switch (token.kind) {
    case Kind::name: {
      const std::string& name = take().text;
      if (name == "true" || name == "True") return make_expression(line, Constant{true});
      if (name == "false" || name == "False") return make_expression(line, Constant{false});
      if (name == "none" || name == "None") return make_expression(line, Constant{None{}});
      return make_expression(line, Name{name});
    }
    case Kind::string: {
      std::string text;
      while (current().kind == Kind::string) text += take().text;
      return make_expression(line, Constant{Text(text, true)});
    }
    case Kind::integer:
      return make_expression(line, Constant{take().integer});
    case Kind::real:
      return make_expression(line, Constant{take().real});
    default:
      if (at_mark("(")) return parentheses();
      if (at_mark("[")) return list();
      if (at_mark("{")) return dictionary();
      unexpected("a value");
  }
}

ExpressionPtr ExpressionParser::parentheses() {
  const int line = take().line;
  if (take_mark(")")) return make_expression(line, Elements{{}, List::Kind::tuple});
  ExpressionPtr value = tuple(true);
  expect_mark(")");
  return value;
}

ExpressionPtr ExpressionParser::tuple(bool with_conditional) {
  const int line = current().line;
  std::vector<ExpressionPtr> elements;
  bool several = false;
  do {
    const bool ends =
        several && (at_mark(")") || current().kind == Kind::block_end || current().kind == Kind::output_end);
    if (ends) break;
    elements.push_back(with_conditional ? expression() : simple_expression());
    several = several || at_mark(",");
  } while (take_mark(","));
  return several ? make_expression(line, Elements{std::move(elements), List::Kind::tuple})
                 : std::move(elements.front());
}

ExpressionPtr ExpressionParser::list() {
  const int line = take().line;
  std::vector<ExpressionPtr> elements;
  while (!at_mark("]")) {
    elements.push_back(expression());
    if (!take_mark(",")) break;
  }
  expect_mark("]");
  return make_expression(line, Elements{std::move(elements), List::Kind::list});
}

ExpressionPtr ExpressionParser::dictionary() {
  const int line = take().line;
  std::vector<std::pair<ExpressionPtr, ExpressionPtr>> entries;
  while (!at_mark("}")) {
    ExpressionPtr key = expression();
    expect_mark(":");
    entries.emplace_back(std::move(key), expression());
    if (!take_mark(",")) break;
  }
  expect_mark("}");
  return make_expression(line, Entries{std::move(entries)});
}

ExpressionPtr ExpressionParser::postfix(ExpressionPtr operand) {
  while (true) {
    const int line = current().line;
    if (take_mark(".")) {
      if (current().kind == Kind::integer) {
        ExpressionPtr index = make_expression(line, Constant{take().integer});
        operand = make_expression(line, Item{std::move(operand), std::move(index)});
      } else {
        operand = make_expression(line, Attribute{std::move(operand), expect_name("a name or a number")});
      }
    } else if (at_mark("[")) {
      operand = subscript(std::move(operand));
    } else if (at_mark("(")) {
      operand = make_expression(line, CallExpression{std::move(operand), arguments()});
    } else {
      return operand;
    }
  }
}

ExpressionPtr ExpressionParser::subscript(ExpressionPtr object) {
  const int line = take().line;
  const auto bound = [this]() -> ExpressionPtr {
    return at_mark(":") || at_mark("]") ? nullptr : expression();
  };
  ExpressionPtr start = bound();
  if (!at_mark(":")) {
    if (!start) unexpected("an index");
    expect_mark("]");
    return make_expression(line, Item{std::move(object), std::move(start)});
  }
  take();
  ExpressionPtr stop = bound();
  ExpressionPtr step = take_mark(":") ? bound() : nullptr;
  expect_mark("]");
  return make_expression(line, Slice{std::move(object), std::move(start), std::move(stop), std::move(step)});
}

ArgumentList ExpressionParser::arguments() {
  expect_mark("(");
  ArgumentList list;
  while (!at_mark(")")) {
    if (at_mark("*") || at_mark("**"))
      fail_at(current().line, "spreads a list over arguments, which is not supported",
              "write the arguments one by one");
    if (current().kind == Kind::name && ahead().is(Kind::mark, "=")) {
      std::string name = take().text;
      take();
      list.named.emplace_back(std::move(name), expression());
    } else if (list.named.empty()) {
      list.positional.push_back(expression());
    } else {
      unexpected("a named argument");
    }
    if (!take_mark(",")) break;
  }
  expect_mark(")");
  return list;
}

ExpressionPtr ExpressionParser::filters(ExpressionPtr operand) {
  while (true) {
    const int line = current().line;
    if (take_mark("|")) {
      operand = filter(std::move(operand));
    } else if (take_name("is")) {
      operand = test(std::move(operand));
    } else if (operand && at_mark("(")) {
      operand = make_expression(line, CallExpression{std::move(operand), arguments()});
    } else {
      return operand;
    }
  }
}

ExpressionPtr ExpressionParser::filter(ExpressionPtr operand) {
  const int line = current().line;
  const std::string name = expect_name("the name of a filter");
  const Builtin* known = find_filter(name);
  if (!known) fail_at(line, "uses the filter " + in_quotes(name) + ", which is not known");
  return make_expression(
      line, FilterExpression{std::move(operand), known, at_mark("(") ? arguments() : ArgumentList()});
}

ExpressionPtr ExpressionParser::test(ExpressionPtr operand) {
  const int line = current().line;
  const bool negated = take_name("not");
  const std::string name = expect_name("the name of a test");
  const Builtin* test = find_test(name);
  if (!test) fail_at(line, "uses the test " + in_quotes(name) + ", which is not known");
  ArgumentList list;
  const Token& next = current();
  const bool word = next.kind == Kind::name && next.text != "else" && next.text != "or" &&
                    next.text != "and" && next.text != "is";
  if (at_mark("("))
    list = arguments();
  else if (word || next.kind == Kind::string || next.kind == Kind::integer || next.kind == Kind::real ||
           at_mark("[") || at_mark("{"))
    list.positional.push_back(postfix(primary()));
  ExpressionPtr result = make_expression(line, TestExpression{std::move(operand), test, std::move(list)});
  return negated ? make_expression(line, Not{std::move(result)}) : std::move(result);
}

}  // namespace convoy::model::jinja
