// Filters on lists; those that make text and numbers are in filters_text.cpp and filters_number.cpp.

#include <algorithm>
#include <charconv>

#include "model/chat/jinja/builtin.hpp"
#include "model/chat/jinja/filters.hpp"
#include "model/chat/jinja/spelling.hpp"
#include "model/json.hpp"

namespace convoy::model::jinja {
namespace {

using Elements = std::vector<Value>;

/// falsy: whether what is false, such as none, has none, as for map() and select().
const Elements& elements_of(Call& call, ListPtr& kept, bool falsy = false) {
  kept = iterated(call.meter, falsy && !call.self.truthy() ? Value() : call.self);
  call.meter.steps(kept->elements.size());
  return kept->elements.all();
}

Value length(Call& call) {
  const Value& self = call.self;
  const auto made = [](size_t count) { return Value(static_cast<int64_t>(count)); };
  if (self.undefined()) return made(0);
  if (const Dictionary* dictionary = self.dictionary()) return made(dictionary->entries().size());
  if (const List* list = self.list(); list && list->kind != List::Kind::generator)
    return made(list->elements.size());
  if (const Text* text = self.text()) {
    call.meter.bytes(text->size());
    return made(count_characters(text->view()));
  }
  call.fail("counts the elements of " + std::string(self.kind()));
}

Value default_value(Call& call) {
  const bool missing = call.self.undefined() || (call.flag(1, false) && !call.self.truthy());
  if (!missing) return call.self;
  return call.at[0] ? *call.at[0] : Value(Text());
}

Value first(Call& call) {
  ListPtr kept;
  const Elements& elements = elements_of(call, kept);
  return elements.empty() ? Value() : elements.front();
}

Value last(Call& call) {
  if (call.self.list() && call.self.list()->kind == List::Kind::generator)
    call.fail("needs a list: put `| list` in front");
  ListPtr kept;
  const Elements& elements = elements_of(call, kept);
  return elements.empty() ? Value() : elements.back();
}

Value list(Call& call) {
  if (call.self.undefined()) return List::make(call.meter, {});
  ListPtr kept;
  return List::make(call.meter, elements_of(call, kept));
}

Value reverse(Call& call) {
  if (const Text* text = call.self.text()) {
    call.meter.bytes(text->size() * sizeof(size_t));
    const auto offsets = character_offsets(text->view());
    Text reversed;
    for (size_t i = offsets.size() - 1; i-- > 0;) reversed.append(*text, offsets[i], offsets[i + 1]);
    return call.made(std::move(reversed));
  }
  ListPtr kept;
  const Elements& elements = elements_of(call, kept);
  return List::make(call.meter, {elements.rbegin(), elements.rend()}, List::Kind::generator);
}

/// `a.b.0` of a value: as select("a.b.0") and its like read it.
Value attribute_path(Call& call, const Value& value, const Value& path) {
  if (path.is<int64_t>()) return item_of(call.state, value, path);
  Value found = value;
  const std::string_view names = call.text(path).view();
  for (size_t begin = 0; begin <= names.size();) {
    const size_t end = std::min(names.find('.', begin), names.size());
    const std::string_view name = names.substr(begin, end - begin);
    int64_t index = 0;
    const auto [stop, error] = std::from_chars(name.data(), name.data() + name.size(), index);
    const bool is_index = error == std::errc() && stop == name.data() + name.size();
    found = item_of(call.state, found, is_index ? Value(index) : Value(Text(name, true)));
    begin = end + 1;
  }
  return found;
}

/// Positional arguments from that one on, and all that are named.
Arguments arguments_from(const Arguments& given, size_t first) {
  Arguments rest{.positional = {}, .named = given.named};
  if (first < given.positional.size())
    rest.positional.assign(given.positional.begin() + static_cast<std::ptrdiff_t>(first),
                           given.positional.end());
  return rest;
}

const Builtin& named_builtin(const Call& call, size_t i, const Builtin* (*find)(std::string_view),
                             std::string_view kind) {
  const std::string_view name = call.text(call.given.positional[i]).view();
  const Builtin* found = find(name);
  if (!found)
    call.fail("asks for a " + std::string(kind) + " named " + in_quotes(name) + ", which is not known");
  return *found;
}

Value map(Call& call) {
  Elements mapped;
  ListPtr kept;
  const Elements& elements = elements_of(call, kept, true);
  if (call.given.positional.empty()) {
    const Value *attribute = nullptr, *otherwise = nullptr;
    for (const auto& [name, value] : call.given.named) {
      if (name == "attribute") attribute = &value;
      if (name == "default") otherwise = &value;
    }
    if (!attribute || call.given.named.size() > (otherwise ? 2u : 1u))
      call.fail("needs the name of a filter or an attribute");
    for (const Value& element : elements) {
      Value found = attribute_path(call, element, *attribute);
      mapped.push_back(found.undefined() && otherwise ? *otherwise : std::move(found));
    }
  } else {
    const Builtin& filter = named_builtin(call, 0, find_filter, "filter");
    const Arguments rest = arguments_from(call.given, 1);
    for (const Value& element : elements) mapped.push_back(run_builtin(call.state, filter, element, rest));
  }
  return List::make(call.meter, std::move(mapped), List::Kind::generator);
}

/// By a test of the element, or of one of its attributes.
Value choose(Call& call, bool by_attribute, bool wanted) {
  const size_t test_at = by_attribute ? 1 : 0;
  if (by_attribute && call.given.positional.empty()) call.fail("needs the name of an attribute");
  const bool tested = call.given.positional.size() > test_at;
  const Builtin* test = tested ? &named_builtin(call, test_at, find_test, "test") : nullptr;
  const Arguments rest = arguments_from(call.given, test_at + 1);
  Elements chosen;
  ListPtr kept;
  for (const Value& element : elements_of(call, kept, true)) {
    const Value asked = by_attribute ? attribute_path(call, element, call.given.positional[0]) : element;
    const bool holds = test ? run_builtin(call.state, *test, asked, rest).truthy() : asked.truthy();
    if (holds == wanted) chosen.push_back(element);
  }
  return List::make(call.meter, std::move(chosen), List::Kind::generator);
}

Value select(Call& call) { return choose(call, false, true); }
Value reject(Call& call) { return choose(call, false, false); }
Value selectattr(Call& call) { return choose(call, true, true); }
Value rejectattr(Call& call) { return choose(call, true, false); }

Value join(Call& call) {
  const TextPtr between = call.at[0] ? to_text(call.meter, *call.at[0]) : std::make_shared<const Text>();
  Text joined;
  bool is_first = true;
  ListPtr kept;
  for (const Value& element : elements_of(call, kept)) {
    const TextPtr text =
        to_text(call.meter, call.has(1) ? attribute_path(call, element, *call.at[1]) : element);
    call.meter.bytes(between->cost() + text->cost());
    if (!is_first) joined.append(*between);
    is_first = false;
    joined.append(*text);
  }
  return joined;
}

Value items(Call& call) {
  const Dictionary* dictionary = call.self.dictionary();
  if (!dictionary && !call.self.undefined())
    call.fail("takes a dictionary, not " + std::string(call.self.kind()));
  Elements pairs;
  if (dictionary) pairs = item_pairs(call.meter, *dictionary);
  return List::make(call.meter, std::move(pairs), List::Kind::generator);
}

/// What sorting and comparing look at: an attribute, and text in lower case unless its case counts.
struct Keyed {
  Value key, element;
};
std::vector<Keyed> keyed(Call& call, const Elements& elements, const Value* attribute, bool case_sensitive) {
  std::vector<Keyed> all;
  call.meter.bytes(elements.size() * sizeof(Keyed));
  for (const Value& element : elements) {
    Value key = attribute ? attribute_path(call, element, *attribute) : element;
    if (key.text() && !case_sensitive) key = call.made(converted(*key.text(), lower_case));
    all.push_back({std::move(key), element});
  }
  return all;
}

void sort_keyed(Call& call, std::vector<Keyed>& all, bool reverse) {
  std::stable_sort(all.begin(), all.end(), [&](const Keyed& a, const Keyed& b) {
    return reverse ? less(call.meter, b.key, a.key) : less(call.meter, a.key, b.key);
  });
}

Value listed(Call& call, std::vector<Keyed> all, List::Kind kind) {
  Elements elements;
  for (Keyed& each : all) elements.push_back(std::move(each.element));
  return List::make(call.meter, std::move(elements), kind);
}

Value sort(Call& call) {
  ListPtr kept;
  auto all = keyed(call, elements_of(call, kept), call.has(2) ? call.at[2] : nullptr, call.flag(1, false));
  sort_keyed(call, all, call.flag(0, false));
  return listed(call, std::move(all), List::Kind::list);
}

Value dictsort(Call& call) {
  const Dictionary* dictionary = call.self.dictionary();
  if (!dictionary) call.fail("takes a dictionary, not " + std::string(call.self.kind()));
  const bool by_value = call.has(1) && call.text(1).view() == "value";
  const Value place(static_cast<int64_t>(by_value ? 1 : 0));
  auto all = keyed(call, item_pairs(call.meter, *dictionary), &place, call.flag(0, false));
  sort_keyed(call, all, call.flag(2, false));
  return listed(call, std::move(all), List::Kind::list);
}

Value unique(Call& call) {
  ListPtr kept;
  auto all = keyed(call, elements_of(call, kept), call.has(1) ? call.at[1] : nullptr, call.flag(0, false));
  std::vector<Keyed> once;
  for (Keyed& each : all) {
    const bool seen = std::any_of(once.begin(), once.end(),
                                  [&](const Keyed& known) { return equal(call.meter, known.key, each.key); });
    if (!seen) once.push_back(std::move(each));
  }
  return listed(call, std::move(once), List::Kind::generator);
}

Value extreme(Call& call, bool largest) {
  ListPtr kept;
  const auto all =
      keyed(call, elements_of(call, kept), call.has(1) ? call.at[1] : nullptr, call.flag(0, false));
  const Keyed* best = nullptr;
  for (const Keyed& each : all) {
    if (!best || (largest ? less(call.meter, best->key, each.key) : less(call.meter, each.key, best->key)))
      best = &each;
  }
  return best ? best->element : Value();
}
Value max(Call& call) { return extreme(call, true); }
Value min(Call& call) { return extreme(call, false); }

Value sum(Call& call) {
  Value total = call.at[1] ? *call.at[1] : Value(int64_t{0});
  ListPtr kept;
  for (const Value& element : elements_of(call, kept))
    total = add(call.meter, total, call.has(0) ? attribute_path(call, element, *call.at[0]) : element);
  return total;
}

constexpr Builtin list_filters[] = {
    {"count", length},
    {"d", default_value, 0, {"default_value", "boolean"}},
    {"default", default_value, 0, {"default_value", "boolean"}},
    {"dictsort", dictsort, 0, {"case_sensitive", "by", "reverse"}},
    {"first", first},
    {"items", items},
    {"join", join, 0, {"d", "attribute"}},
    {"last", last},
    {"length", length},
    {"list", list},
    {"map", map, 0, {}, true},
    {"max", max, 0, {"case_sensitive", "attribute"}},
    {"min", min, 0, {"case_sensitive", "attribute"}},
    {"reject", reject, 0, {}, true},
    {"rejectattr", rejectattr, 0, {}, true},
    {"reverse", reverse},
    {"select", select, 0, {}, true},
    {"selectattr", selectattr, 0, {}, true},
    {"sort", sort, 0, {"reverse", "case_sensitive", "attribute"}},
    {"sum", sum, 0, {"attribute", "start"}},
    {"unique", unique, 0, {"case_sensitive", "attribute"}},
};

const Builtin* find_list_filter(std::string_view name) { return find_in(list_filters, name); }

}  // namespace

const Builtin* find_filter(std::string_view name) {
  for (const auto find : {find_list_filter, find_text_filter, find_number_filter})
    if (const Builtin* found = find(name)) return found;
  return nullptr;
}

}  // namespace convoy::model::jinja
