#include "model/chat/jinja/parser.hpp"

#include <algorithm>
#include <initializer_list>

#include "model/chat/jinja/expression_parser.hpp"
#include "model/json.hpp"
#include "model/utf8.hpp"

namespace convoy::model::jinja {
namespace {

using Kind = Token::Kind;

class Parser final : public ExpressionParser {
 public:
  using ExpressionParser::ExpressionParser;

  Body run() { return statements({}); }

 private:
  /// Up to a block that opens with one of these names, which is current then; without any, up to the end.
  Body statements(std::initializer_list<std::string_view> ends) {
    const Level level(*this);
    Body body;
    const int begins = current().line;
    while (true) {
      const Token& token = current();
      if (token.kind == Kind::end) {
        if (ends.size() > 0) fail_at(begins, "has no `{% " + std::string(*(ends.end() - 1)) + " %}`");
        return body;
      }
      take();
      if (token.kind == Kind::text) {
        body.push_back({token.line, TextStatement{Text(token.text, true)}});
      } else if (token.kind == Kind::output_begin) {
        body.push_back({token.line, OutputStatement{tuple(true)}});
        if (current().kind != Kind::output_end) unexpected("`}}`");
        take();
      } else {
        const bool ends_here =
            std::any_of(ends.begin(), ends.end(), [this](auto name) { return at_name(name); });
        if (ends_here) return body;
        body.push_back(block(token.line));
        end_block();
      }
    }
  }

  /// Behind a block's first tag: its body, and the tag that ends it up to its end.
  Body body_until(std::string_view end) {
    end_block();
    Body body = statements({end});
    take();
    return body;
  }

  void end_block() {
    if (current().kind != Kind::block_end) unexpected("`%}`");
    take();
  }

  Statement block(int line) {
    const std::string name = expect_name("the name of a block");
    if (name == "if") return {line, branches()};
    if (name == "for") return {line, loop()};
    if (name == "set") return {line, assignment()};
    if (name == "macro") return {line, macro()};
    if (name == "filter") return {line, filter_block()};
    if (name == "generation") return {line, BlockStatement{{}, nullptr, detached("endgeneration")}};
    if (name == "break" || name == "continue") {
      if (loops_ == 0) fail_at(line, "has a `" + name + "` outside of a loop");
      return name == "break" ? Statement{line, BreakStatement{}} : Statement{line, ContinueStatement{}};
    }
    fail_at(line, "has the block " + in_quotes(name) + ", which is not known");
  }

  IfStatement branches() {
    IfStatement statement;
    while (true) {
      ExpressionPtr test = tuple(false);
      end_block();
      statement.branches.emplace_back(std::move(test), statements({"elif", "else", "endif"}));
      if (take_name("elif")) continue;
      if (take_name("else")) {
        statement.otherwise = body_until("endif");
      } else {
        take();
      }
      return statement;
    }
  }

  ForStatement loop() {
    ForStatement statement;
    statement.target = target();
    if (!take_name("in")) unexpected("`in`");
    statement.iterable = tuple(false);
    if (take_name("if")) statement.condition = expression();
    if (at_name("recursive"))
      fail_at(current().line, "has a recursive loop, which is not supported", "use a macro");
    end_block();
    loops_++;
    statement.body = statements({"else", "endfor"});
    loops_--;
    if (take_name("else"))
      statement.otherwise = body_until("endfor");
    else
      take();
    return statement;
  }

  decltype(Statement::node) assignment() {
    Target to = target();
    if (take_mark("=")) return SetStatement{std::move(to), tuple(true)};
    ExpressionPtr through = at_mark("|") ? filters(nullptr) : nullptr;
    return BlockStatement{std::move(to), std::move(through), detached("endset")};
  }

  Target target() {
    Target to;
    const bool parenthesised = take_mark("(");
    to.unpacks = parenthesised;
    to.names.push_back(expect_name("the name of a variable"));
    if (!parenthesised && take_mark(".")) {
      to.attribute = expect_name("the name of an attribute");
      return to;
    }
    while (take_mark(",")) {
      to.unpacks = true;
      if (at_mark(")") || at_name("in") || at_mark("=")) break;
      to.names.push_back(expect_name("the name of a variable"));
    }
    if (parenthesised) expect_mark(")");
    return to;
  }

  MacroStatement macro() {
    MacroStatement statement{expect_name("the name of the macro"), {}, {}};
    expect_mark("(");
    while (!at_mark(")")) {
      std::string name = expect_name("the name of a parameter");
      const bool has_default = take_mark("=");
      if (!has_default && !statement.parameters.empty() && statement.parameters.back().otherwise)
        unexpected("a default");
      statement.parameters.push_back({std::move(name), has_default ? expression() : nullptr});
      if (!take_mark(",")) break;
    }
    expect_mark(")");
    statement.body = detached("endmacro");
    return statement;
  }

  BlockStatement filter_block() {
    ExpressionPtr through = filters(filter(nullptr));
    return BlockStatement{{}, std::move(through), detached("endfilter")};
  }

  /// A body that is rendered by itself: no loop around it can be left.
  Body detached(std::string_view end) {
    const size_t outside = std::exchange(loops_, 0);
    Body body = body_until(end);
    loops_ = outside;
    return body;
  }

  size_t loops_ = 0;
};

}  // namespace

Body parse_template(std::string_view text) {
  if (text.size() > template_bytes_max)
    throw InputError("has " + std::to_string(text.size()) + " bytes; " + std::to_string(template_bytes_max) +
                         " are the most that is read",
                     "chat template", "use a shorter one");
  if (const size_t at = find_invalid_utf8(text); at != text.npos)
    throw InputError("is not UTF-8 at byte " + std::to_string(at), "chat template", "write it in UTF-8");
  return Parser(tokens_of(text)).run();
}

}  // namespace convoy::model::jinja
