// The interpreter's expressions.

#include "model/chat/jinja/interpreter.hpp"
#include "model/chat/jinja/spelling.hpp"

namespace convoy::model::jinja {

Value Interpreter::evaluate(const Expression& expression, const ScopePtr& scope) {
  const Meter::Level level(meter_, expression.line);
  return std::visit([&](const auto& node) { return evaluate(node, scope); }, expression.node);
}

Value Interpreter::evaluate(const Constant& node, const ScopePtr&) { return node.value; }

Value Interpreter::evaluate(const Name& node, const ScopePtr& scope) {
  if (const Value* found = scope->find(node.name)) return *found;
  if (const Builtin* function = find_function(node.name)) return function;
  return Undefined{&node.name};
}

Value Interpreter::evaluate(const Elements& node, const ScopePtr& scope) {
  std::vector<Value> elements;
  for (const ExpressionPtr& element : node.elements) elements.push_back(evaluate(*element, scope));
  return List::make(meter_, std::move(elements), node.kind);
}

Value Interpreter::evaluate(const Entries& node, const ScopePtr& scope) {
  std::vector<std::pair<Value, Value>> entries;
  for (const auto& [key, value] : node.entries) {
    Value name = evaluate(*key, scope);
    entries.emplace_back(std::move(name), evaluate(*value, scope));
  }
  return Dictionary::make(meter_, std::move(entries));
}

Value Interpreter::evaluate(const Attribute& node, const ScopePtr& scope) {
  return attribute_of(state_, evaluate(*node.object, scope), node.name);
}

Value Interpreter::evaluate(const Item& node, const ScopePtr& scope) {
  const Value object = evaluate(*node.object, scope);
  return item_of(state_, object, evaluate(*node.index, scope));
}

Value Interpreter::evaluate(const Slice& node, const ScopePtr& scope) {
  const Value object = evaluate(*node.object, scope);
  const auto bound = [&](const ExpressionPtr& given) {
    return given ? evaluate(*given, scope) : Value(None{});
  };
  const Value start = bound(node.start), stop = bound(node.stop);
  return slice(meter_, object, start, stop, bound(node.step));
}

Arguments Interpreter::evaluate(const ArgumentList& list, const ScopePtr& scope) {
  Arguments arguments;
  for (const ExpressionPtr& each : list.positional) arguments.positional.push_back(evaluate(*each, scope));
  for (const auto& [name, each] : list.named) arguments.named.emplace_back(name, evaluate(*each, scope));
  return arguments;
}

Value Interpreter::evaluate(const CallExpression& node, const ScopePtr& scope) {
  const Value callee = evaluate(*node.callee, scope);
  if (callee.undefined()) {
    const auto* member = std::get_if<Attribute>(&node.callee->node);
    if (member)
      meter_.fail("calls `" + member->name + "` of " + std::string(evaluate(*member->object, scope).kind()) +
                  ", which has no such method");
    const std::string* name = callee.get<Undefined>()->name;
    meter_.fail("calls " + (name ? "`" + *name + "`, which is not known" : "what is undefined"));
  }
  return call(callee, evaluate(node.arguments, scope));
}

Value Interpreter::call(const Value& callee, const Arguments& arguments) {
  if (const auto* macro = callee.get<const Macro*>()) return call(**macro, arguments);
  if (const auto* function = callee.get<const Builtin*>())
    return run_builtin(state_, **function, {}, arguments);
  if (const auto* bound = callee.get<BoundMethodPtr>())
    return run_builtin(state_, *(*bound)->method, (*bound)->self, arguments);
  meter_.fail("calls " + std::string(callee.kind()));
}

Value Interpreter::evaluate(const FilterExpression& node, const ScopePtr& scope) {
  const Value operand = node.operand ? evaluate(*node.operand, scope) : rendered_;
  return run_builtin(state_, *node.filter, operand, evaluate(node.arguments, scope));
}

Value Interpreter::evaluate(const TestExpression& node, const ScopePtr& scope) {
  const Value operand = evaluate(*node.operand, scope);
  return run_builtin(state_, *node.test, operand, evaluate(node.arguments, scope));
}

Value Interpreter::evaluate(const Signed& node, const ScopePtr& scope) {
  const Value operand = evaluate(*node.operand, scope);
  if (node.sign == Sign::minus) return negated(meter_, operand);
  if (!number_of(operand)) meter_.fail("has no positive of " + std::string(operand.kind()));
  return operand;
}

Value Interpreter::evaluate(const Not& node, const ScopePtr& scope) {
  return !evaluate(*node.operand, scope).truthy();
}

Value Interpreter::evaluate(const Logical& node, const ScopePtr& scope) {
  Value left = evaluate(*node.left, scope);
  return left.truthy() == node.is_and ? evaluate(*node.right, scope) : left;
}

Value Interpreter::evaluate(const Calculation& node, const ScopePtr& scope) {
  const Value left = evaluate(*node.left, scope);
  return calculate(meter_, node.operation, left, evaluate(*node.right, scope));
}

Value Interpreter::evaluate(const Concatenation& node, const ScopePtr& scope) {
  Text text;
  for (const ExpressionPtr& part : node.parts) print(text, *to_text(meter_, evaluate(*part, scope)));
  return text;
}

Value Interpreter::evaluate(const Comparison& node, const ScopePtr& scope) {
  Value left = evaluate(*node.first, scope);
  for (const auto& [by, operand] : node.rest) {
    Value right = evaluate(*operand, scope);
    if (!holds(by, left, right)) return false;
    left = std::move(right);
  }
  return true;
}

bool Interpreter::holds(Comparing by, const Value& left, const Value& right) {
  switch (by) {
    case Comparing::equal:
      return equal(meter_, left, right);
    case Comparing::unequal:
      return !equal(meter_, left, right);
    case Comparing::less:
      return less(meter_, left, right);
    case Comparing::at_most:
      return at_most(meter_, left, right);
    case Comparing::greater:
      return less(meter_, right, left);
    case Comparing::at_least:
      return at_most(meter_, right, left);
    case Comparing::in:
      return contains(meter_, right, left);
    case Comparing::not_in:
      return !contains(meter_, right, left);
  }
  return false;
}

Value Interpreter::evaluate(const Conditional& node, const ScopePtr& scope) {
  if (evaluate(*node.test, scope).truthy()) return evaluate(*node.then, scope);
  return node.otherwise ? evaluate(*node.otherwise, scope) : Value();
}

}  // namespace convoy::model::jinja
