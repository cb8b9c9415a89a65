#include "model/chat/jinja/operators.hpp"

#include <algorithm>
#include <cmath>

#include "model/chat/jinja/filters.hpp"

namespace convoy::model::jinja {
namespace {

constexpr std::string_view symbols[] = {"+", "-", "*", "/", "//", "%", "**"};

[[noreturn]] void refuse(const Meter& meter, Arithmetic operation, const Value& a, const Value& b) {
  meter.fail("has no `" + std::string(symbols[static_cast<size_t>(operation)]) + "` of " +
             std::string(a.kind()) + " and " + std::string(b.kind()));
}

[[noreturn]] void overflow(const Meter& meter) { meter.fail("leaves the integers of 64 bits"); }

Value integer_power(Meter& meter, int64_t base, int64_t exponent) {
  int64_t result = 1;
  for (; exponent > 0; exponent /= 2) {
    if (exponent % 2 && __builtin_mul_overflow(result, base, &result)) overflow(meter);
    if (exponent > 1 && __builtin_mul_overflow(base, base, &base)) overflow(meter);
  }
  return result;
}

Value calculate_integers(Meter& meter, Arithmetic operation, int64_t a, int64_t b) {
  int64_t result = 0;
  bool over = false;
  switch (operation) {
    case Arithmetic::add:
      over = __builtin_add_overflow(a, b, &result);
      break;
    case Arithmetic::subtract:
      over = __builtin_sub_overflow(a, b, &result);
      break;
    case Arithmetic::multiply:
      over = __builtin_mul_overflow(a, b, &result);
      break;
    case Arithmetic::divide:
      return static_cast<double>(a) / static_cast<double>(b);
    case Arithmetic::floor_divide:
      over = a == INT64_MIN && b == -1;
      if (!over) result = a / b - (a % b != 0 && (a % b < 0) != (b < 0));
      break;
    case Arithmetic::modulo:
      if (b != -1) result = a % b;
      if (result != 0 && (result < 0) != (b < 0)) result += b;
      break;
    case Arithmetic::power:
      return b < 0 ? Value(std::pow(static_cast<double>(a), static_cast<double>(b)))
                   : integer_power(meter, a, b);
  }
  if (over) overflow(meter);
  return result;
}

Value calculate_reals(Arithmetic operation, double a, double b) {
  switch (operation) {
    case Arithmetic::add:
      return a + b;
    case Arithmetic::subtract:
      return a - b;
    case Arithmetic::multiply:
      return a * b;
    case Arithmetic::divide:
      return a / b;
    case Arithmetic::floor_divide:
      return std::floor(a / b);
    case Arithmetic::modulo:
      return a - b * std::floor(a / b);
    case Arithmetic::power:
      return std::pow(a, b);
  }
  return {};
}

Value calculate_numbers(Meter& meter, Arithmetic operation, const Number& a, const Number& b) {
  const auto real = [](const Number& number) {
    return number.integer ? static_cast<double>(*number.integer) : number.real;
  };
  const bool divides = operation == Arithmetic::divide || operation == Arithmetic::floor_divide ||
                       operation == Arithmetic::modulo;
  const bool inverts = operation == Arithmetic::power && real(b) < 0 && real(a) == 0;
  if ((divides && real(b) == 0) || inverts) meter.fail("divides by zero");
  return a.integer && b.integer ? calculate_integers(meter, operation, *a.integer, *b.integer)
                                : calculate_reals(operation, real(a), real(b));
}

/// A string or list, so many times.
Value repeated(Meter& meter, const Value& value, int64_t times) {
  const auto count = static_cast<uint64_t>(std::max<int64_t>(times, 0));
  if (const Text* text = value.text()) {
    Text result;
    for (uint64_t i = 0; i < count && !text->empty(); i++) {
      meter.bytes(text->cost());
      result.append(*text);
    }
    return result;
  }
  std::vector<Value> elements;
  const auto& once = value.list()->elements.all();
  for (uint64_t i = 0; i < count && !once.empty(); i++) {
    meter.bytes(once.size() * sizeof(Value));
    elements.insert(elements.end(), once.begin(), once.end());
  }
  return List::make(meter, std::move(elements), value.list()->kind);
}

bool repeats(const Value& value) { return value.text() || (value.list() && value.list()->has_places()); }

Value joined(Meter& meter, const Text& a, const Text& b) {
  const bool markup = a.markup() || b.markup();
  // As an escaped text becomes longer, and is made beside the sum.
  constexpr size_t escaped_at_most = 5;
  meter.bytes(sizeof(Text) + (a.cost() + b.cost()) * (markup ? 2 * escaped_at_most : 1));
  Text sum = markup && !a.markup() ? a.escaped() : a;
  if (markup && !b.markup())
    sum.append(b.escaped());
  else
    sum.append(b);
  if (markup) sum.set_markup();
  return sum;
}

}  // namespace

Value add(Meter& meter, const Value& a, const Value& b) {
  const auto x = number_of(a), y = number_of(b);
  if (x && y) return calculate_numbers(meter, Arithmetic::add, *x, *y);
  if (a.text() && b.text()) return joined(meter, *a.text(), *b.text());
  const bool lists = a.list() && b.list() && a.list()->kind == b.list()->kind &&
                     (a.list()->kind == List::Kind::list || a.list()->kind == List::Kind::tuple);
  if (!lists) refuse(meter, Arithmetic::add, a, b);
  meter.bytes((a.list()->elements.size() + b.list()->elements.size()) * sizeof(Value));
  std::vector<Value> elements = a.list()->elements.all();
  elements.insert(elements.end(), b.list()->elements.begin(), b.list()->elements.end());
  return List::make(meter, std::move(elements), a.list()->kind);
}

Value calculate(Meter& meter, Arithmetic operation, const Value& a, const Value& b) {
  if (operation == Arithmetic::add) return add(meter, a, b);
  const auto x = number_of(a), y = number_of(b);
  if (x && y) return calculate_numbers(meter, operation, *x, *y);
  if (operation == Arithmetic::multiply) {
    if (repeats(a) && y && y->integer) return repeated(meter, a, *y->integer);
    if (repeats(b) && x && x->integer) return repeated(meter, b, *x->integer);
  }
  refuse(meter, operation, a, b);
}

Value negated(Meter& meter, const Value& value) {
  const auto number = number_of(value);
  if (!number) meter.fail("has no negative of " + std::string(value.kind()));
  if (!number->integer) return -number->real;
  if (*number->integer == INT64_MIN) overflow(meter);
  return -*number->integer;
}

bool at_most(Meter& meter, const Value& a, const Value& b) { return less(meter, a, b) || equal(meter, a, b); }

bool contains(Meter& meter, const Value& container, const Value& element) {
  if (const Text* text = container.text()) {
    const Text* part = element.text();
    if (!part) meter.fail("looks for " + std::string(element.kind()) + " in a string");
    meter.bytes(text->size());
    return text->view().find(part->view()) != std::string_view::npos;
  }
  if (const Dictionary* dictionary = container.dictionary())
    return dictionary->find(meter, element) != nullptr;
  if (container.undefined()) return false;
  const List* list = container.list();
  if (!list) meter.fail("looks for something in " + std::string(container.kind()));
  return std::any_of(list->elements.begin(), list->elements.end(),
                     [&](const Value& held) { return equal(meter, held, element); });
}

Value slice(Meter& meter, const Value& value, const Value& start, const Value& stop, const Value& step) {
  const Text* text = value.text();
  const List* list = value.list();
  if (value.undefined()) meter.fail("takes a slice of what is undefined");
  if (!text && !(list && list->has_places())) return {};
  const auto bound = [&](const Value& given) { return integer_of(meter, given, "a bound of a slice"); };
  const auto absent = [](const Value& given) { return given.none(); };
  std::vector<size_t> offsets;
  if (text) {
    meter.bytes(text->size() * sizeof(size_t));
    offsets = character_offsets(text->view());
  }
  const auto count = static_cast<int64_t>(text ? offsets.size() - 1 : list->elements.size());
  const int64_t by = absent(step) ? 1 : bound(step);
  if (by == 0) meter.fail("takes a slice in steps of 0");
  // The places that can be cut at: forward [0, count], backward [-1, count - 1].
  const int64_t lowest = by > 0 ? 0 : -1, highest = by > 0 ? count : count - 1;
  const auto place = [&](const Value& given, int64_t otherwise) {
    if (absent(given)) return otherwise;
    const int64_t at = bound(given);
    return std::clamp(at < 0 ? at + count : at, lowest, highest);
  };
  const int64_t from = place(start, by > 0 ? lowest : highest), to = place(stop, by > 0 ? highest : lowest);
  if (text && by == 1)
    return from < to ? text->slice(offsets[static_cast<size_t>(from)], offsets[static_cast<size_t>(to)])
                     : Text();
  Text characters;
  std::vector<Value> elements;
  for (int64_t i = from; by > 0 ? i < to : i > to;) {
    meter.steps(1);
    const auto at = static_cast<size_t>(i);
    if (text)
      characters.append(*text, offsets[at], offsets[at + 1]);
    else
      elements.push_back(list->elements[at]);
    if (__builtin_add_overflow(i, by, &i)) break;
  }
  if (text) return characters;
  return List::make(meter, std::move(elements), list->kind);
}

}  // namespace convoy::model::jinja
