#pragma once
// What one rendering owns: its meter, its clock, and the values that change or that refer to each other,
// which go when it ends. Its thread's alone.

#include <ctime>
#include <deque>
#include <memory>
#include <utility>

#include "model/chat/jinja/meter.hpp"
#include "model/chat/jinja/value.hpp"

namespace convoy::model::jinja {

struct MacroStatement;

/// The variables of a loop's turn, a macro's call, a block: what it sets is gone behind it.
struct Scope {
  std::shared_ptr<Scope> outer;
  std::vector<std::pair<std::string_view, Value>> variables;  // names in the template's tree

  void set(std::string_view name, Value value) {
    for (auto& [known, held] : variables) {
      if (known != name) continue;
      held = std::move(value);
      return;
    }
    variables.emplace_back(name, std::move(value));
  }
  /// nullptr if neither it nor an outer one has it.
  const Value* find(std::string_view name) const {
    for (const Scope* scope = this; scope; scope = scope->outer.get())
      for (const auto& [known, value] : scope->variables)
        if (known == name) return &value;
    return nullptr;
  }
};

struct Macro {
  const MacroStatement* statement;
  std::shared_ptr<Scope> scope;  // where it stands
};

struct State {
  State(const Limits& limits, std::time_t time) : meter(limits), now(time) {}

  Meter meter;
  std::time_t now;
  std::unique_ptr<LateElements> late;  // of the list of messages
  // They hold values that may point back to them, so none of them owns another.
  std::deque<Namespace> namespaces;
  std::deque<Loop> loops;
  std::deque<Macro> macros;
};

}  // namespace convoy::model::jinja
