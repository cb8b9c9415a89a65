#include "model/chat/jinja/interpreter.hpp"

#include "model/chat/jinja/spelling.hpp"

namespace convoy::model::jinja {

Text Interpreter::run(const Body& body, std::shared_ptr<Scope> variables, const Watch& watch) {
  watch_ = watch;
  execute(body, variables, printed_);
  return std::move(printed_);
}

Interpreter::Flow Interpreter::execute(const Body& body, const ScopePtr& scope, Text& out) {
  for (const Statement& statement : body) {
    const Meter::Level level(meter_, statement.line);
    const Flow flow = std::visit([&](const auto& node) { return execute(node, scope, out); }, statement.node);
    if (flow != Flow::next) return flow;
  }
  return Flow::next;
}

void Interpreter::print(Text& out, const Text& text) {
  meter_.bytes(text.cost());
  out.append(text);
  if (&out != &printed_ || out.size() < watched_at_) return;
  watched_at_ = 2 * out.size();
  if (watch_) watch_(out);
}

Interpreter::Flow Interpreter::execute(const TextStatement& statement, const ScopePtr&, Text& out) {
  print(out, statement.text);
  return Flow::next;
}

Interpreter::Flow Interpreter::execute(const OutputStatement& statement, const ScopePtr& scope, Text& out) {
  print(out, *to_text(meter_, evaluate(*statement.value, scope)));
  return Flow::next;
}

Interpreter::Flow Interpreter::execute(const IfStatement& statement, const ScopePtr& scope, Text& out) {
  for (const auto& [test, body] : statement.branches)
    if (evaluate(*test, scope).truthy()) return execute(body, scope, out);
  return execute(statement.otherwise, scope, out);
}

ListPtr Interpreter::loop_items(const ForStatement& statement, const ScopePtr& scope) {
  const ListPtr all = iterated(meter_, evaluate(*statement.iterable, scope));
  if (!statement.condition) return all;
  std::vector<Value> chosen;
  for (const Value& item : all->elements) {
    const ScopePtr turn = inner(scope);
    assign(statement.target, item, turn);
    if (evaluate(*statement.condition, turn).truthy()) chosen.push_back(item);
  }
  return *List::make(meter_, std::move(chosen)).get<ListPtr>();
}

Interpreter::Flow Interpreter::execute(const ForStatement& statement, const ScopePtr& scope, Text& out) {
  const ListPtr items = loop_items(statement, scope);
  if (items->elements.empty()) return execute(statement.otherwise, inner(scope), out);
  meter_.bytes(sizeof(Loop));
  Loop& loop = state_.loops.emplace_back(Loop{items, 0, {}});
  for (; loop.index < items->elements.size(); loop.index++) {
    meter_.steps(1);
    const ScopePtr turn = inner(scope);
    turn->set("loop", &loop);
    assign(statement.target, items->elements[loop.index], turn);
    if (execute(statement.body, turn, out) == Flow::leave_loop) break;
  }
  return Flow::next;
}

Interpreter::Flow Interpreter::execute(const SetStatement& statement, const ScopePtr& scope, Text&) {
  assign(statement.target, evaluate(*statement.value, scope), scope);
  return Flow::next;
}

void Interpreter::assign(const Target& target, Value value, const ScopePtr& scope) {
  if (target.attribute) {
    const Value* found = scope->find(target.names[0]);
    Namespace* const* space = found ? found->get<Namespace*>() : nullptr;
    if (!space) meter_.fail("sets an attribute of `" + target.names[0] + "`, which is no namespace");
    if (Value* known = (*space)->find(*target.attribute)) {
      *known = std::move(value);
    } else {
      meter_.bytes(sizeof(Value) + target.attribute->size());
      (*space)->variables.emplace_back(*target.attribute, std::move(value));
    }
    return;
  }
  if (!target.unpacks) return scope->set(target.names[0], std::move(value));
  const ListPtr parts = iterated(meter_, value);
  if (parts->elements.size() != target.names.size())
    meter_.fail("unpacks " + std::to_string(parts->elements.size()) + " values into " +
                std::to_string(target.names.size()) + " variables");
  for (size_t i = 0; i < target.names.size(); i++) scope->set(target.names[i], parts->elements[i]);
}

Interpreter::Flow Interpreter::execute(const BlockStatement& statement, const ScopePtr& scope, Text& out) {
  Text text;
  execute(statement.body, inner(scope), text);
  Value result(std::move(text));
  if (statement.filters) {
    std::swap(rendered_, result);
    Value filtered = evaluate(*statement.filters, scope);
    rendered_ = std::move(result);
    result = std::move(filtered);
  }
  if (statement.target)
    assign(*statement.target, std::move(result), scope);
  else
    print(out, *to_text(meter_, result));
  return Flow::next;
}

Interpreter::Flow Interpreter::execute(const MacroStatement& statement, const ScopePtr& scope, Text&) {
  meter_.bytes(sizeof(Macro));
  scope->set(statement.name, &std::as_const(state_.macros.emplace_back(Macro{&statement, scope})));
  return Flow::next;
}

Value Interpreter::call(const Macro& macro, const Arguments& arguments) {
  const MacroStatement& statement = *macro.statement;
  const auto refuse = [&](const std::string& what) {
    meter_.fail("the macro `" + statement.name + "` " + what);
  };
  const auto& parameters = statement.parameters;
  if (arguments.positional.size() > parameters.size())
    refuse("takes " + std::to_string(parameters.size()) + " arguments at most");
  std::vector<const Value*> given(parameters.size());
  for (size_t i = 0; i < arguments.positional.size(); i++) given[i] = &arguments.positional[i];
  for (const auto& [name, value] : arguments.named) {
    size_t i = 0;
    while (i < parameters.size() && parameters[i].name != name) i++;
    if (i == parameters.size()) refuse("takes no argument named `" + std::string(name) + "`");
    if (given[i]) refuse("is given `" + std::string(name) + "` twice");
    given[i] = &value;
  }
  const ScopePtr scope = inner(macro.scope);
  for (size_t i = 0; i < parameters.size(); i++) {
    const auto& [name, otherwise] = parameters[i];
    scope->set(name, given[i]    ? *given[i]
                     : otherwise ? evaluate(*otherwise, scope)
                                 : Value(Undefined{&name}));
  }
  Text out;
  execute(statement.body, scope, out);
  meter_.bytes(sizeof(Text));
  return out;
}

}  // namespace convoy::model::jinja
