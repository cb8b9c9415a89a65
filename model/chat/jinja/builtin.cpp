#include "model/chat/jinja/builtin.hpp"

#include <ctime>

#include "model/chat/jinja/spelling.hpp"
#include "model/json.hpp"

namespace convoy::model::jinja {

int64_t Call::integer(size_t i, int64_t otherwise) const {
  return has(i) ? integer_of(meter, *at[i], builtin.parameters[i]) : otherwise;
}

const Text& Call::text(const Value& value) const {
  if (const Text* text = value.text()) return *text;
  fail("takes a string, not " + std::string(value.kind()));
}

Value Call::made(Text text) const {
  meter.bytes(sizeof(Text) + text.cost());
  return text;
}

void Call::fail(const std::string& what) const { meter.fail("`" + std::string(builtin.name) + "` " + what); }

Value run_builtin(State& state, const Builtin& builtin, const Value& self, const Arguments& arguments) {
  Call call{state, state.meter, builtin, self, arguments};
  if (builtin.takes_any) return builtin.run(call);
  size_t count = 0;
  while (count < parameters_max && !builtin.parameters[count].empty()) count++;
  if (arguments.positional.size() > count) call.fail("takes " + std::to_string(count) + " arguments at most");
  for (size_t i = 0; i < arguments.positional.size(); i++) call.at[i] = &arguments.positional[i];
  for (const auto& [name, value] : arguments.named) {
    size_t i = 0;
    while (i < count && builtin.parameters[i] != name) i++;
    if (i == count) call.fail("takes no argument named `" + std::string(name) + "`");
    if (call.at[i]) call.fail("is given `" + std::string(name) + "` twice");
    call.at[i] = &value;
  }
  for (size_t i = 0; i < builtin.required; i++)
    if (!call.at[i]) call.fail("needs `" + std::string(builtin.parameters[i]) + "`");
  return builtin.run(call);
}

namespace {

/// The place that a Python index means; nullopt outside.
std::optional<size_t> place_of(int64_t index, size_t count) {
  const auto size = static_cast<int64_t>(count);
  if (index < -size || index >= size) return std::nullopt;
  return static_cast<size_t>(index < 0 ? index + size : index);
}

std::optional<Value> subscript(State& state, const Value& self, const Value& index) {
  if (const Dictionary* dictionary = self.dictionary()) {
    const Value* found = dictionary->find(state.meter, index);
    return found ? std::optional(*found) : std::nullopt;
  }
  const auto number = number_of(index);
  if (!number || !number->integer) return std::nullopt;
  if (const List* list = self.list()) {
    if (!list->has_places()) return std::nullopt;
    const auto place = place_of(*number->integer, list->elements.size());
    return place ? std::optional(list->elements[*place]) : std::nullopt;
  }
  if (const Text* text = self.text()) {
    state.meter.bytes(text->size() * sizeof(size_t));
    const auto offsets = character_offsets(text->view());
    const auto place = place_of(*number->integer, offsets.size() - 1);
    return place ? std::optional<Value>(text->slice(offsets[*place], offsets[*place + 1])) : std::nullopt;
  }
  return std::nullopt;
}

std::optional<Value> member(const Value& self, std::string_view name) {
  if (const Builtin* method = find_method(self, name))
    return BoundMethodPtr(std::make_shared<const BoundMethod>(BoundMethod{self, method}));
  if (auto* const* space = self.get<Namespace*>()) {
    const Value* found = (*space)->find(name);
    return found ? std::optional(*found) : std::nullopt;
  }
  if (auto* const* loop = self.get<Loop*>()) return (*loop)->attribute(name);
  return std::nullopt;
}

void refuse_undefined(const Meter& meter, const Value& self, std::string_view wanted) {
  if (!self.undefined()) return;
  const std::string* name = self.get<Undefined>()->name;
  meter.fail("looks for " + in_quotes(wanted) + " in " + (name ? "`" + *name + "`, which is" : "what is") +
             " undefined");
}

}  // namespace

Value item_of(State& state, const Value& self, const Value& index) {
  refuse_undefined(state.meter, self, index.text() ? index.text()->view() : "an element");
  if (auto found = subscript(state, self, index)) return *found;
  if (index.text()) return member(self, index.text()->view()).value_or(Value());
  return {};
}

Value attribute_of(State& state, const Value& self, std::string_view name) {
  refuse_undefined(state.meter, self, name);
  if (auto found = member(self, name)) return *found;
  const Dictionary* dictionary = self.dictionary();
  const Value* found = dictionary ? dictionary->find(name) : nullptr;
  return found ? *found : Value();
}

// Functions.

namespace {

Value range(Call& call) {
  const auto bound = [&](size_t i) { return integer_of(call.meter, *call.at[i], "a bound"); };
  const int64_t start = call.at[1] ? bound(0) : 0, stop = call.at[1] ? bound(1) : bound(0),
                step = call.at[2] ? bound(2) : 1;
  if (step == 0) call.fail("goes in steps of 0");
  std::vector<Value> elements;
  for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
    if (elements.size() == range_max) call.fail("makes more than " + std::to_string(range_max) + " numbers");
    call.meter.steps(1);
    elements.emplace_back(i);
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return List::make(call.meter, std::move(elements), List::Kind::range);
}

/// What namespace() and dict() are given: a dictionary's entries, then what is named.
std::vector<std::pair<Value, Value>> given_entries(const Call& call) {
  std::vector<std::pair<Value, Value>> entries;
  if (call.given.positional.size() > 1) call.fail("takes one dictionary at most");
  for (const Value& from : call.given.positional) {
    if (!from.dictionary()) call.fail("takes a dictionary, not " + std::string(from.kind()));
    for (const auto& [key, value] : from.dictionary()->entries()) entries.emplace_back(key, value);
  }
  for (const auto& [name, value] : call.given.named) entries.emplace_back(Text(name, true), value);
  return entries;
}

Value dictionary(Call& call) { return Dictionary::make(call.meter, given_entries(call)); }

Value make_namespace(Call& call) {
  const Value entries = dictionary(call);
  call.meter.bytes(sizeof(Namespace));
  Namespace& made = call.state.namespaces.emplace_back();
  for (const auto& [key, value] : entries.dictionary()->entries())
    made.variables.emplace_back(call.text(key).view(), value);
  return &made;
}

Value raise_exception(Call& call) {
  const std::string reason(to_text(call.meter, *call.at[0])->view());
  call.meter.fail("the model's chat template refuses the conversation: " + reason.substr(0, 500),
                  "send messages that it takes");
}

Value strftime_now(Call& call) {
  constexpr size_t format_max = 100, result_max = 1000;
  const std::string format(call.text(0).view());
  std::tm time{};
  if (format.size() > format_max || !::localtime_r(&call.state.now, &time))
    call.fail("cannot write the time in the format " + in_quotes(format));
  char buffer[result_max];
  const size_t size = std::strftime(buffer, sizeof buffer, format.c_str(), &time);
  if (size == 0 && !format.empty()) call.fail("cannot write the time in the format " + in_quotes(format));
  return call.made(Text({buffer, size}, true));
}

constexpr Builtin functions[] = {
    {"range", range, 1, {"start", "stop", "step"}},
    {"namespace", make_namespace, 0, {}, true},
    {"dict", dictionary, 0, {}, true},
    {"raise_exception", raise_exception, 1, {"message"}},
    {"strftime_now", strftime_now, 1, {"format"}},
};

}  // namespace

const Builtin* find_function(std::string_view name) { return find_in(functions, name); }

}  // namespace convoy::model::jinja
