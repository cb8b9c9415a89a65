// Filters that make numbers.

#include <cctype>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "model/chat/jinja/filters.hpp"

namespace convoy::model::jinja {
namespace {

Number number(const Call& call) {
  const auto number = number_of(call.self);
  if (!number) call.fail("takes a number, not " + std::string(call.self.kind()));
  return *number;
}

Value absolute(Call& call) {
  const Number value = number(call);
  if (!value.integer) return std::abs(value.real);
  if (*value.integer == INT64_MIN) call.fail("leaves the integers of 64 bits");
  return std::abs(*value.integer);
}

Value round(Call& call) {
  const Number value = number(call);
  const int64_t digits = call.integer(0, 0);
  const std::string_view method = call.has(1) ? call.text(1).view() : "common";
  if (digits < 0 || digits > 15) call.fail("rounds to 0 to 15 digits only");
  if (value.integer)
    return method == "common" ? Value(*value.integer) : Value(static_cast<double>(*value.integer));
  if (!std::isfinite(value.real)) call.fail("takes a finite number");
  const double scale = std::pow(10.0, static_cast<double>(digits));
  if (method == "ceil") return std::ceil(value.real * scale) / scale;
  if (method == "floor") return std::floor(value.real * scale) / scale;
  if (method != "common") call.fail("rounds common, ceil or floor");
  char buffer[400];  // the decimal that is nearest to the exact value, as Python's round() takes
  std::snprintf(buffer, sizeof buffer, "%.*f", static_cast<int>(digits), value.real);
  return std::strtod(buffer, nullptr);
}

/// A string's white space at its ends does not count, nor does one underscore between digits.
std::optional<std::string> digits_of(const Text& text) {
  const auto [begin, end] = stripped(text.view(), true, true);
  std::string digits;
  for (size_t i = begin; i < end; i++) {
    const char c = text.view()[i];
    const bool between = i > begin && i + 1 < end &&
                         std::isdigit(static_cast<unsigned char>(text.view()[i - 1])) &&
                         std::isdigit(static_cast<unsigned char>(text.view()[i + 1]));
    if (c == '_' && between) continue;
    digits += c;
  }
  if (digits.starts_with('+') && !digits.starts_with("+-")) digits.erase(0, 1);
  if (digits.empty()) return std::nullopt;
  return digits;
}

std::optional<double> parse_real(const Text& text) {
  const auto digits = digits_of(text);
  if (!digits) return std::nullopt;
  double value = 0;
  const char* const end = digits->data() + digits->size();
  const auto [stop, error] = std::from_chars(digits->data(), end, value);
  if (stop != end || error == std::errc::invalid_argument) return std::nullopt;
  if (error == std::errc::result_out_of_range) return std::strtod(digits->c_str(), nullptr);
  return value;
}

Value truncated(const Call& call, double value, const Value& otherwise) {
  if (!std::isfinite(value)) return otherwise;
  if (std::abs(value) >= 0x1p63) call.fail("leaves the integers of 64 bits");
  return static_cast<int64_t>(value);
}

Value to_integer(Call& call) {
  const Value otherwise = call.at[0] ? *call.at[0] : Value(int64_t{0});
  const int64_t base = call.integer(1, 10);
  if (base != 10) call.fail("reads decimal integers only");
  if (call.self.big()) return call.self;
  if (const auto number = number_of(call.self))
    return number->integer ? Value(*number->integer) : truncated(call, number->real, otherwise);
  if (!call.self.text()) return otherwise;
  if (const auto digits = digits_of(*call.self.text())) {
    int64_t value = 0;
    const char* const end = digits->data() + digits->size();
    const auto [stop, error] = std::from_chars(digits->data(), end, value);
    if (stop == end && error == std::errc()) return value;
    if (stop == end && error == std::errc::result_out_of_range) call.fail("leaves the integers of 64 bits");
  }
  const auto real = parse_real(*call.self.text());
  return real ? truncated(call, *real, otherwise) : otherwise;
}

Value to_float(Call& call) {
  const Value otherwise = call.at[0] ? *call.at[0] : Value(0.0);
  if (const auto number = number_of(call.self))
    return number->integer ? static_cast<double>(*number->integer) : number->real;
  if (!call.self.text()) return otherwise;
  const auto real = parse_real(*call.self.text());
  return real ? Value(*real) : otherwise;
}

constexpr Builtin number_filters[] = {
    {"abs", absolute},
    {"float", to_float, 0, {"default"}},
    {"int", to_integer, 0, {"default", "base"}},
    {"round", round, 0, {"precision", "method"}},
};

}  // namespace

const Builtin* find_number_filter(std::string_view name) { return find_in(number_filters, name); }

}  // namespace convoy::model::jinja
