#pragma once
// Walks a template's tree over one conversation. Made for one rendering, used by its thread.

#include <functional>
#include <memory>
#include <string_view>

#include "model/chat/jinja/builtin.hpp"
#include "model/chat/jinja/syntax.hpp"

namespace convoy::model::jinja {

class Interpreter {
 public:
  using Watch = std::function<void(const Text&)>;

  explicit Interpreter(State& state) : state_(state), meter_(state.meter) {}

  /// What the template prints. Throws InputError where jinja2 fails, and at the limits. `watch`, if there is
  /// one, sees what was printed so far each time that it has doubled; what it throws ends the rendering.
  Text run(const Body& body, std::shared_ptr<Scope> variables, const Watch& watch);

 private:
  using ScopePtr = std::shared_ptr<Scope>;
  enum class Flow { next, leave_loop, next_turn };

  // Statements.
  Flow execute(const Body& body, const ScopePtr& scope, Text& out);
  Flow execute(const TextStatement& statement, const ScopePtr& scope, Text& out);
  Flow execute(const OutputStatement& statement, const ScopePtr& scope, Text& out);
  Flow execute(const IfStatement& statement, const ScopePtr& scope, Text& out);
  Flow execute(const ForStatement& statement, const ScopePtr& scope, Text& out);
  Flow execute(const SetStatement& statement, const ScopePtr& scope, Text& out);
  Flow execute(const BlockStatement& statement, const ScopePtr& scope, Text& out);
  Flow execute(const MacroStatement& statement, const ScopePtr& scope, Text& out);
  Flow execute(const BreakStatement&, const ScopePtr&, Text&) { return Flow::leave_loop; }
  Flow execute(const ContinueStatement&, const ScopePtr&, Text&) { return Flow::next_turn; }

  /// The elements that a loop goes through: those that its condition lets through.
  ListPtr loop_items(const ForStatement& statement, const ScopePtr& scope);
  void assign(const Target& target, Value value, const ScopePtr& scope);
  void print(Text& out, const Text& text);
  ScopePtr inner(const ScopePtr& scope) { return std::make_shared<Scope>(Scope{scope, {}}); }

  // Expressions.
  Value evaluate(const Expression& expression, const ScopePtr& scope);
  Value evaluate(const Constant& node, const ScopePtr& scope);
  Value evaluate(const Name& node, const ScopePtr& scope);
  Value evaluate(const Elements& node, const ScopePtr& scope);
  Value evaluate(const Entries& node, const ScopePtr& scope);
  Value evaluate(const Attribute& node, const ScopePtr& scope);
  Value evaluate(const Item& node, const ScopePtr& scope);
  Value evaluate(const Slice& node, const ScopePtr& scope);
  Value evaluate(const CallExpression& node, const ScopePtr& scope);
  Value evaluate(const FilterExpression& node, const ScopePtr& scope);
  Value evaluate(const TestExpression& node, const ScopePtr& scope);
  Value evaluate(const Signed& node, const ScopePtr& scope);
  Value evaluate(const Not& node, const ScopePtr& scope);
  Value evaluate(const Logical& node, const ScopePtr& scope);
  Value evaluate(const Calculation& node, const ScopePtr& scope);
  Value evaluate(const Concatenation& node, const ScopePtr& scope);
  Value evaluate(const Comparison& node, const ScopePtr& scope);
  Value evaluate(const Conditional& node, const ScopePtr& scope);

  Arguments evaluate(const ArgumentList& list, const ScopePtr& scope);
  bool holds(Comparing by, const Value& left, const Value& right);
  Value call(const Value& callee, const Arguments& arguments);
  Value call(const Macro& macro, const Arguments& arguments);

  State& state_;
  Meter& meter_;
  Text printed_;              // by the template itself; blocks and macros print to texts of their own
  size_t watched_at_ = 4096;  // bytes that are printed before they are next looked at
  Watch watch_;
  Value rendered_;  // by the block whose filters are under way
};

}  // namespace convoy::model::jinja
