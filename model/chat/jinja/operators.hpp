#pragma once
// Arithmetic, containment and slices as Python has them. Pure, but for the meter.

#include <optional>

#include "model/chat/jinja/value.hpp"

namespace convoy::model::jinja {

enum class Arithmetic { add, subtract, multiply, divide, floor_divide, modulo, power };

/// Throws InputError for operands that do not go together, and for integers that leave 64 bits.
Value calculate(Meter& meter, Arithmetic operation, const Value& a, const Value& b);
Value negated(Meter& meter, const Value& value);

bool at_most(Meter& meter, const Value& a, const Value& b);
/// `element in container`.
bool contains(Meter& meter, const Value& container, const Value& element);
/// `value[start:stop:step]`, where none stands for what is absent; undefined for what has no slices.
Value slice(Meter& meter, const Value& value, const Value& start, const Value& stop, const Value& step);

}  // namespace convoy::model::jinja
