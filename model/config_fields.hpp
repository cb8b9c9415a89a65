#pragma once
// Fields: what config.json says, asked for by name and type, with an error that names file and field.

#include <boost/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "model/error.hpp"

namespace convoy::model {

/// Typed fields of one JSON object; null counts as absent, as it does for the reference.
class Fields {
 public:
  Fields(const boost::json::object& object, std::string where) : object_(object), where_(std::move(where)) {}

  const boost::json::value* find(std::string_view name) const {
    const boost::json::value* value = object_.if_contains({name.data(), name.size()});
    return value && !value->is_null() ? value : nullptr;
  }
  /// Where null and absent differ.
  bool says_null(std::string_view name) const {
    const boost::json::value* value = object_.if_contains({name.data(), name.size()});
    return value && value->is_null();
  }
  [[noreturn]] void fail(std::string_view name, const std::string& problem, std::string mend) const {
    throw InputError(problem, where_ + ": " + std::string(name), std::move(mend));
  }
  [[noreturn]] void wrong_type(std::string_view name, const char* wanted) const {
    fail(name, "is " + boost::json::serialize(*find(name)).substr(0, 80), std::string("give ") + wanted);
  }

  std::optional<int64_t> integer(std::string_view name) const {
    const boost::json::value* value = find(name);
    if (!value) return std::nullopt;
    if (!value->is_int64()) wrong_type(name, "a whole number");
    return value->get_int64();
  }
  std::optional<double> number(std::string_view name) const {
    const boost::json::value* value = find(name);
    if (!value) return std::nullopt;
    if (!value->is_number()) wrong_type(name, "a number");
    return value->to_number<double>();
  }
  bool truth(std::string_view name) const {
    const boost::json::value* value = find(name);
    if (value && !value->is_bool()) wrong_type(name, "true or false");
    return value && value->get_bool();
  }
  std::optional<std::string> text(std::string_view name) const {
    const boost::json::value* value = find(name);
    if (!value) return std::nullopt;
    if (!value->is_string()) wrong_type(name, "a string");
    return std::string(value->get_string().data(), value->get_string().size());
  }
  std::optional<Fields> object(std::string_view name) const {
    const boost::json::value* value = find(name);
    if (!value) return std::nullopt;
    if (!value->is_object()) wrong_type(name, "an object");
    return Fields(value->get_object(), where_ + ": " + std::string(name));
  }

  size_t size() const { return object_.size(); }

  int64_t need_integer(std::string_view name) const { return need(integer(name), name); }
  double need_number(std::string_view name) const { return need(number(name), name); }

  /// Refuses a field that is there and not `neutral`: it would change the result.
  void only(std::string_view name, const boost::json::value& neutral) const {
    const boost::json::value* value = find(name);
    const bool same = !value || *value == neutral ||
                      (value->is_number() && neutral.is_number() &&
                       value->to_number<double>() == neutral.to_number<double>());
    if (!same)
      fail(name, "is " + boost::json::serialize(*value).substr(0, 80) + ", which Convoy doesn't support",
           "use a checkpoint where it is " + boost::json::serialize(neutral) + " or absent");
  }

 private:
  template <class T>
  T need(std::optional<T> value, std::string_view name) const {
    if (!value) fail(name, "is missing", "the checkpoint needs it");
    return *value;
  }

  const boost::json::object& object_;
  std::string where_;
};

}  // namespace convoy::model
