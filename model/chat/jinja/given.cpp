#include "model/chat/jinja/given.hpp"

#include "model/chat/python_json.hpp"

namespace convoy::model::jinja {

namespace json = boost::json;

Value given(Meter& meter, std::string_view text) {
  const std::pmr::polymorphic_allocator<Text> allocator(meter.memory());
  TextPtr made = std::allocate_shared<const Text>(allocator, text, false);
  meter.bytes(made->cost());
  return made;
}

Value given(Meter& meter, const json::value& value, const std::string& where) {
  meter.steps(1);
  switch (value.kind()) {
    case json::kind::null:
      return None{};
    case json::kind::bool_:
      return value.get_bool();
    case json::kind::int64:
      return value.get_int64();
    case json::kind::uint64:
      return value.get_uint64() > INT64_MAX ? Value::big(value.get_uint64())
                                            : Value(static_cast<int64_t>(value.get_uint64()));
    case json::kind::double_:
      if (!is_kept_exactly(value.get_double()))
        throw InputError("holds a number that is too large to be kept exactly", where,
                         "give it as a string, or leave it out");
      return value.get_double();
    case json::kind::string:
      return given(meter, value.get_string());
    case json::kind::array: {
      std::vector<Value> elements;
      for (const json::value& element : value.get_array()) elements.push_back(given(meter, element, where));
      return List::make(meter, std::move(elements));
    }
    case json::kind::object: {
      std::vector<std::pair<Value, Value>> entries;
      for (const auto& [key, held] : value.get_object())
        entries.emplace_back(given(meter, key), given(meter, held, where));
      return Dictionary::make(meter, std::move(entries));
    }
  }
  return {};
}

}  // namespace convoy::model::jinja
