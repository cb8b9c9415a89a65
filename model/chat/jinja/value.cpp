#include "model/chat/jinja/value.hpp"

#include <algorithm>

#include "model/chat/jinja/builtin.hpp"
#include "model/utf8.hpp"

namespace convoy::model::jinja {

std::string_view Value::kind() const {
  static constexpr std::string_view kinds[] = {
      "undefined",   "none",     "a boolean", "an integer",   "an integer beyond 64 bits",
      "a float",     "a string", "a list",    "a dictionary", "a method",
      "a namespace", "a loop",   "a macro",   "a function"};
  static_assert(std::size(kinds) == std::variant_size_v<decltype(held_)>);
  return kinds[held_.index()];
}

bool Value::truthy() const {
  if (undefined() || none()) return false;
  if (const bool* value = get<bool>()) return *value;
  if (const int64_t* value = get<int64_t>()) return *value != 0;
  if (const double* value = get<double>()) return *value != 0;
  if (const Text* value = text()) return !value->empty();
  if (const List* value = list()) return value->kind == List::Kind::generator || !value->elements.empty();
  if (const Dictionary* value = dictionary()) return !value->entries().empty();
  return true;
}

size_t Value::nesting() const {
  if (const List* value = list()) return value->nesting;
  if (const Dictionary* value = dictionary()) return value->nesting();
  if (const auto* method = get<BoundMethodPtr>()) return (*method)->self.nesting() + 1;
  return 0;
}

namespace {

void check_nesting(const Meter& meter, size_t nesting) {
  if (nesting > values_nesting_max)
    meter.fail("nests lists more than " + std::to_string(values_nesting_max) + " deep",
               "use a simpler template");
}

}  // namespace

Value List::make(Meter& meter, std::vector<Value> elements, Kind kind) {
  meter.bytes(sizeof(List) + elements.size() * sizeof(Value));
  size_t nesting = 0;
  for (const Value& element : elements) nesting = std::max(nesting, element.nesting());
  check_nesting(meter, nesting + 1);
  return ListPtr(std::make_shared<const List>(List{kind, std::move(elements), nesting + 1}));
}

Value List::late(Meter& meter, size_t count, LateElements& source) {
  meter.bytes(sizeof(List) + count * sizeof(Value));
  constexpr size_t nesting = 2;  // of dictionaries at most
  return ListPtr(std::make_shared<const List>(List{Kind::list, Elements(count, source), nesting}));
}

Value Dictionary::make(Meter& meter, std::vector<std::pair<Value, Value>>&& entries) {
  constexpr size_t place_bytes = 64;
  meter.bytes(sizeof(Dictionary) + entries.size() * (sizeof(Entry) + place_bytes));
  const std::pmr::polymorphic_allocator<Dictionary> allocator(meter.memory());
  const auto made = std::allocate_shared<Dictionary>(allocator, meter.memory());
  made->entries_.reserve(entries.size());
  size_t nesting = 0;
  for (auto& [key, value] : entries) {
    const bool usable = key.text() || number_of(key) || key.none();
    if (!usable)
      meter.fail("makes a dictionary whose key is " + std::string(key.kind()), "use strings as keys");
    nesting = std::max(nesting, value.nesting());
    if (const auto place = made->place(meter, key)) {
      made->entries_[*place].value = std::move(value);
      continue;
    }
    made->add({std::move(key), std::move(value)});
  }
  made->nesting_ = nesting + 1;
  check_nesting(meter, made->nesting_);
  return DictionaryPtr(made);
}

void Dictionary::add(Entry entry) {
  entries_.push_back(std::move(entry));
  if (entries_.size() <= searched_max) return;
  const size_t first_without = entries_.size() == searched_max + 1 ? 0 : entries_.size() - 1;
  for (size_t i = first_without; i < entries_.size(); i++)
    if (const Text* name = entries_[i].key.text()) places_.emplace(name->view(), i);
}

const Value* Dictionary::find(std::string_view key) const {
  const auto found = place(key);
  return found ? &entries_[*found].value : nullptr;
}

const Value* Dictionary::find(Meter& meter, const Value& key) const {
  const auto found = place(meter, key);
  return found ? &entries_[*found].value : nullptr;
}

std::optional<size_t> Dictionary::place(std::string_view key) const {
  if (entries_.size() > searched_max) {
    const auto found = places_.find(key);
    return found == places_.end() ? std::nullopt : std::optional(found->second);
  }
  for (size_t i = 0; i < entries_.size(); i++)
    if (const Text* name = entries_[i].key.text(); name && name->view() == key) return i;
  return std::nullopt;
}

std::optional<size_t> Dictionary::place(Meter& meter, const Value& key) const {
  if (const Text* name = key.text()) return place(name->view());
  if (!number_of(key) && !key.none()) return std::nullopt;
  for (size_t i = 0; i < entries_.size(); i++)
    if (equal(meter, entries_[i].key, key)) return i;
  return std::nullopt;
}

Value* Namespace::find(std::string_view name) {
  for (auto& [key, value] : variables)
    if (key == name) return &value;
  return nullptr;
}

Value Loop::attribute(std::string_view name) const {
  const auto& all = items->elements;
  const auto number = [](size_t value) { return Value(static_cast<int64_t>(value)); };
  if (name == "index") return number(index + 1);
  if (name == "index0") return number(index);
  if (name == "revindex") return number(all.size() - index);
  if (name == "revindex0") return number(all.size() - index - 1);
  if (name == "first") return index == 0;
  if (name == "last") return index + 1 == all.size();
  if (name == "length") return number(all.size());
  if (name == "depth") return number(1);  // of recursive loops, which there are none of
  if (name == "depth0") return number(0);
  if (name == "previtem" && index > 0) return all[index - 1];
  if (name == "nextitem" && index + 1 < all.size()) return all[index + 1];
  return {};
}

std::optional<Number> number_of(const Value& value) {
  if (const bool* boolean = value.get<bool>()) return Number{*boolean ? 1 : 0};
  if (const int64_t* integer = value.get<int64_t>()) return Number{*integer};
  if (const double* real = value.get<double>()) return Number{{}, *real};
  return std::nullopt;
}

int64_t integer_of(Meter& meter, const Value& value, std::string_view name) {
  const auto number = number_of(value);
  if (!number || !number->integer)
    meter.fail("has " + std::string(value.kind()) + " as " + std::string(name) + ", which takes an integer");
  return *number->integer;
}

namespace {

/// Exact for both, which double is not.
long double exact(const Number& number) {
  return number.integer ? static_cast<long double>(*number.integer) : static_cast<long double>(number.real);
}

bool equal_lists(Meter& meter, const List& a, const List& b) {
  if ((a.kind == List::Kind::tuple) != (b.kind == List::Kind::tuple)) return false;
  return std::equal(a.elements.begin(), a.elements.end(), b.elements.begin(), b.elements.end(),
                    [&](const Value& x, const Value& y) { return equal(meter, x, y); });
}

bool equal_dictionaries(Meter& meter, const Dictionary& a, const Dictionary& b) {
  if (a.entries().size() != b.entries().size()) return false;
  return std::all_of(a.entries().begin(), a.entries().end(), [&](const Dictionary::Entry& entry) {
    const Value* other = b.find(meter, entry.key);
    return other && equal(meter, entry.value, *other);
  });
}

template <class T>
bool same(const Value& a, const Value& b) {
  return a.is<T>() && b.is<T>() && *a.get<T>() == *b.get<T>();
}

}  // namespace

bool equal(Meter& meter, const Value& a, const Value& b) {
  meter.steps(1);
  const auto x = number_of(a), y = number_of(b);
  if (x && y) return exact(*x) == exact(*y);
  if (a.text() && b.text()) {
    meter.bytes(std::min(a.text()->size(), b.text()->size()));
    return a.text()->view() == b.text()->view();
  }
  if (a.list() && b.list()) return equal_lists(meter, *a.list(), *b.list());
  if (a.dictionary() && b.dictionary()) return equal_dictionaries(meter, *a.dictionary(), *b.dictionary());
  if (a.big() && b.big()) return *a.big() == *b.big();
  return (a.none() && b.none()) || (a.undefined() && b.undefined()) || same<Namespace*>(a, b) ||
         same<Loop*>(a, b) || same<const Macro*>(a, b) || same<const Builtin*>(a, b);
}

bool less(Meter& meter, const Value& a, const Value& b) {
  meter.steps(1);
  const auto x = number_of(a), y = number_of(b);
  if (x && y) return exact(*x) < exact(*y);
  if (a.text() && b.text()) {
    meter.bytes(std::min(a.text()->size(), b.text()->size()));
    return a.text()->view() < b.text()->view();  // UTF-8 sorts as its characters do
  }
  meter.fail("asks whether " + std::string(a.kind()) + " or " + std::string(b.kind()) + " is smaller");
}

ListPtr iterated(Meter& meter, const Value& value) {
  if (const auto* list = value.get<ListPtr>()) return *list;
  std::vector<Value> elements;
  if (const Dictionary* dictionary = value.dictionary()) {
    meter.bytes(dictionary->entries().size() * sizeof(Value));
    for (const auto& entry : dictionary->entries()) elements.push_back(entry.key);
  } else if (const Text* text = value.text()) {
    meter.bytes(text->size() * (sizeof(Value) + sizeof(Text)));
    for (size_t at = 0; at < text->size();) {
      const size_t end = at + character_at(text->view(), at).bytes;
      elements.emplace_back(text->slice(at, end));
      at = end;
    }
  } else if (!value.undefined()) {
    meter.fail("goes through " + std::string(value.kind()) + " as through a list");
  }
  return *List::make(meter, std::move(elements)).get<ListPtr>();
}

}  // namespace convoy::model::jinja
