#pragma once
// Fields: one JSON object of a request, read field by field; what is wrong is an ApiError that names the
// field, thrown to parse_request(), which returns it. Pure; any thread.

#include <boost/json.hpp>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "gateway/api_error.hpp"

namespace convoy::gateway {

class Fields {
 public:
  explicit Fields(const boost::json::object& object, std::string prefix = {})
      : object_(object), prefix_(std::move(prefix)) {}
  /// One of many: its place is spelled where something is wrong with it.
  Fields(const boost::json::object& object, std::string_view list, size_t index)
      : object_(object), list_(list), index_(index) {}

  const boost::json::value* find(std::string_view key) const {
    const boost::json::value* v = object_.if_contains(key);
    return v && !v->is_null() ? v : nullptr;
  }
  std::string path(std::string_view key) const {
    const std::string in_list = list_.empty() ? "" : std::string(list_) + "[" + std::to_string(index_) + "].";
    return in_list + prefix_ + std::string(key);
  }

  [[noreturn]] void refuse(std::string_view key, const std::string& why,
                           std::string code = "invalid_value") const {
    throw bad_request("'" + path(key) + "' " + why, path(key), std::move(code));
  }
  [[noreturn]] void unsupported(std::string_view key, const std::string& what = "is not supported") const {
    refuse(key, what, "unsupported_parameter");
  }

  const boost::json::value& required(std::string_view key) const {
    if (const boost::json::value* v = find(key)) return *v;
    throw bad_request("you must provide '" + path(key) + "'", path(key), "missing_required_parameter");
  }
  std::string_view text(std::string_view key) const {
    const boost::json::value& v = required(key);
    if (!v.is_string()) refuse(key, "must be a string");
    return v.get_string();
  }
  bool boolean(std::string_view key) const {
    const boost::json::value* v = find(key);
    if (!v) return false;
    if (!v->is_bool()) refuse(key, "must be true or false");
    return v->get_bool();
  }
  /// 5.0 and 1e3 are integers too, as JSON has one kind of number.
  std::optional<int64_t> integer(std::string_view key, int64_t min, int64_t max) const {
    const boost::json::value* v = find(key);
    if (!v) return {};
    const std::optional<int64_t> x = whole(*v);
    if (!x && !(v->is_number() && std::floor(v->to_number<double>()) == v->to_number<double>()))
      refuse(key, "must be an integer");
    if (!x || *x < min || *x > max)
      refuse(key, "must be an integer from " + std::to_string(min) + " to " + std::to_string(max));
    return x;
  }
  /// A number in [min, max], or in (min, max] if open: the float that it becomes, too.
  float number(std::string_view key, double fallback, double min, double max, bool open = false) const {
    const boost::json::value* v = find(key);
    if (!v) return static_cast<float>(fallback);
    if (!v->is_number()) refuse(key, "must be a number");
    const double x = v->to_number<double>();
    const auto rounded = static_cast<float>(x);
    if (!(x <= max) || (open ? !(rounded > min) : !(x >= min)))
      refuse(key, std::string("must be a number ") + (open ? "above " : "from ") + shown(min) +
                      (open ? " and at most " : " to ") + shown(max));
    return rounded;
  }

 private:
  static std::optional<int64_t> whole(const boost::json::value& v) {
    constexpr double two_to_63 = 9223372036854775808.0;
    if (v.is_int64()) return v.get_int64();
    if (!v.is_double()) return {};
    const double x = v.get_double();
    if (std::floor(x) != x || x < -two_to_63 || x >= two_to_63) return {};
    return static_cast<int64_t>(x);
  }
  static std::string shown(double x) { return std::to_string(static_cast<int>(x)); }
  const boost::json::object& object_;
  std::string prefix_;
  std::string_view list_;  // empty: it is in none
  size_t index_ = 0;
};

/// Empty, false or nothing: it asks for nothing.
inline bool neutral(const boost::json::value& v) {
  return v.is_null() || (v.is_array() && v.get_array().empty()) ||
         (v.is_object() && v.get_object().empty()) || (v.is_bool() && !v.get_bool()) ||
         (v.is_string() && v.get_string().empty());
}

}  // namespace convoy::gateway
