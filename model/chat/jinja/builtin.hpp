#pragma once
// The filters, tests, functions and methods that published chat templates use, as jinja2 and Python have
// them. None reaches anything but its arguments and the rendering's clock.

#include <array>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/chat/jinja/state.hpp"

namespace convoy::model::jinja {

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string_view, Value>> named;
};

inline constexpr size_t parameters_max = 5;

struct Call;

struct Builtin {
  std::string_view name;
  Value (*run)(Call&);
  size_t required = 0;                                           // of the parameters
  std::array<std::string_view, parameters_max> parameters = {};  // none behind the first that is empty
  bool takes_any = false;                                        // it reads what is given by itself
};

/// A builtin under way.
struct Call {
  State& state;
  Meter& meter;
  const Builtin& builtin;
  const Value& self;  // what a filter, test or method is applied to
  const Arguments& given;
  std::array<const Value*, parameters_max> at = {};  // by parameter; nullptr if not given

  /// Whether it was given and is not none.
  bool has(size_t i) const { return at[i] && !at[i]->none(); }
  int64_t integer(size_t i, int64_t otherwise) const;
  bool flag(size_t i, bool otherwise) const { return at[i] ? at[i]->truthy() : otherwise; }
  /// Throw InputError for what is no string.
  const Text& text() const { return text(self); }
  const Text& text(size_t i) const { return text(*at[i]); }
  const Text& text(const Value& value) const;
  /// Charges for it and makes a value of it.
  Value made(Text text) const;
  [[noreturn]] void fail(const std::string& what) const;
};

/// nullptr if there is none of that name.
const Builtin* find_filter(std::string_view name);
const Builtin* find_test(std::string_view name);
const Builtin* find_function(std::string_view name);
const Builtin* find_method(const Value& self, std::string_view name);

/// Throws InputError for arguments that do not fit.
Value run_builtin(State& state, const Builtin& builtin, const Value& self, const Arguments& arguments);

/// `self[index]`, else `self.index`, as templates read it; undefined if there is neither.
Value item_of(State& state, const Value& self, const Value& index);
/// `self.name`, else `self["name"]`. Throws InputError for an undefined self.
Value attribute_of(State& state, const Value& self, std::string_view name);

/// Internal to builtin*.cpp: by name, out of a table.
template <size_t count>
const Builtin* find_in(const Builtin (&table)[count], std::string_view name) {
  for (const Builtin& builtin : table)
    if (builtin.name == name) return &builtin;
  return nullptr;
}

}  // namespace convoy::model::jinja
