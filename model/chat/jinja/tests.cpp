// What stands behind `is`.

#include "model/chat/jinja/filters.hpp"
#include "model/chat/jinja/operators.hpp"

namespace convoy::model::jinja {
namespace {

Value is_defined(Call& call) { return !call.self.undefined(); }
Value is_undefined(Call& call) { return call.self.undefined(); }
Value is_none(Call& call) { return call.self.none(); }
Value is_boolean(Call& call) { return call.self.is<bool>(); }
Value is_true(Call& call) { return call.self.is<bool>() && *call.self.get<bool>(); }
Value is_false(Call& call) { return call.self.is<bool>() && !*call.self.get<bool>(); }
Value is_integer(Call& call) { return call.self.is<int64_t>() || call.self.big().has_value(); }
Value is_float(Call& call) { return call.self.is<double>(); }
Value is_number(Call& call) { return number_of(call.self).has_value() || call.self.big().has_value(); }
Value is_string(Call& call) { return call.self.text() != nullptr; }
Value is_mapping(Call& call) { return call.self.dictionary() != nullptr; }
Value is_iterable(Call& call) {
  return call.self.undefined() || call.self.text() || call.self.list() || call.self.dictionary();
}
Value is_sequence(Call& call) {
  const List* list = call.self.list();
  return call.self.undefined() || call.self.text() || call.self.dictionary() || (list && list->has_places());
}
Value is_callable(Call& call) {
  return call.self.is<BoundMethodPtr>() || call.self.is<const Macro*>() || call.self.is<const Builtin*>() ||
         call.self.undefined();  // it has a __call__, which fails
}

Value is_divisible(Call& call) {
  const int64_t by = integer_of(call.meter, *call.at[0], "num");
  if (by == 0) call.fail("divides by zero");
  return by == -1 || integer_of(call.meter, call.self, "a number") % by == 0;
}
Value is_even(Call& call) { return integer_of(call.meter, call.self, "a number") % 2 == 0; }
Value is_odd(Call& call) { return integer_of(call.meter, call.self, "a number") % 2 != 0; }

Value is_equal(Call& call) { return equal(call.meter, call.self, *call.at[0]); }
Value is_unequal(Call& call) { return !equal(call.meter, call.self, *call.at[0]); }
Value is_less(Call& call) { return less(call.meter, call.self, *call.at[0]); }
Value is_greater(Call& call) { return less(call.meter, *call.at[0], call.self); }
Value is_at_most(Call& call) { return at_most(call.meter, call.self, *call.at[0]); }
Value is_at_least(Call& call) { return at_most(call.meter, *call.at[0], call.self); }
Value is_in(Call& call) { return contains(call.meter, *call.at[0], call.self); }

/// Python's `is`: of what templates compare so, the same kind and equal is the same.
Value is_same(Call& call) {
  return call.self.kind() == call.at[0]->kind() && equal(call.meter, call.self, *call.at[0]);
}

Value is_lower(Call& call) {
  const Builtin* islower = find_method(call.self, "islower");
  return islower ? run_builtin(call.state, *islower, call.self, {}) : false;
}
Value is_upper(Call& call) {
  const Builtin* isupper = find_method(call.self, "isupper");
  return isupper ? run_builtin(call.state, *isupper, call.self, {}) : false;
}

Value is_filter(Call& call) { return call.self.text() && find_filter(call.self.text()->view()); }
Value is_test(Call& call) { return call.self.text() && find_test(call.self.text()->view()); }

constexpr Builtin tests[] = {
    {"!=", is_unequal, 1, {"other"}},
    {"<", is_less, 1, {"other"}},
    {"<=", is_at_most, 1, {"other"}},
    {"==", is_equal, 1, {"other"}},
    {">", is_greater, 1, {"other"}},
    {">=", is_at_least, 1, {"other"}},
    {"boolean", is_boolean},
    {"callable", is_callable},
    {"defined", is_defined},
    {"divisibleby", is_divisible, 1, {"num"}},
    {"eq", is_equal, 1, {"other"}},
    {"equalto", is_equal, 1, {"other"}},
    {"even", is_even},
    {"false", is_false},
    {"filter", is_filter},
    {"float", is_float},
    {"ge", is_at_least, 1, {"other"}},
    {"greaterthan", is_greater, 1, {"other"}},
    {"gt", is_greater, 1, {"other"}},
    {"in", is_in, 1, {"seq"}},
    {"integer", is_integer},
    {"iterable", is_iterable},
    {"le", is_at_most, 1, {"other"}},
    {"lessthan", is_less, 1, {"other"}},
    {"lower", is_lower},
    {"lt", is_less, 1, {"other"}},
    {"mapping", is_mapping},
    {"ne", is_unequal, 1, {"other"}},
    {"none", is_none},
    {"number", is_number},
    {"odd", is_odd},
    {"sameas", is_same, 1, {"other"}},
    {"sequence", is_sequence},
    {"string", is_string},
    {"test", is_test},
    {"true", is_true},
    {"undefined", is_undefined},
    {"upper", is_upper},
};

}  // namespace

const Builtin* find_test(std::string_view name) { return find_in(tests, name); }

}  // namespace convoy::model::jinja
