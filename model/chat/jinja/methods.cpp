// Methods of strings, dictionaries, lists and loops, as Python's values have them. None changes its value.

#include <algorithm>

#include "model/chat/jinja/filters.hpp"
#include "model/chat/jinja/spelling.hpp"
#include "model/utf8.hpp"

namespace convoy::model::jinja {
namespace {

Value made_list(Call& call, const std::vector<Range>& ranges) {
  const Text& text = call.text();
  call.meter.bytes(text.cost() + ranges.size() * sizeof(Text));
  std::vector<Value> parts;
  for (const auto& [begin, end] : ranges) parts.emplace_back(text.slice(begin, end));
  return List::make(call.meter, std::move(parts));
}

Value strip_at(Call& call, bool left, bool right) {
  const Text& text = call.text();
  const auto [begin, end] = call.has(0) ? stripped(text.view(), left, right, call.text(0).view())
                                        : stripped(text.view(), left, right);
  return call.made(text.slice(begin, end));
}
Value strip(Call& call) { return strip_at(call, true, true); }
Value lstrip(Call& call) { return strip_at(call, true, false); }
Value rstrip(Call& call) { return strip_at(call, false, true); }

/// Words between white space; at most that many cuts, from the left or from the right.
std::vector<Range> words(std::string_view text, uint64_t cuts_max, bool from_right) {
  std::vector<Range> found;
  size_t begin = 0, end = text.size();
  while (true) {
    const auto [first, last] = stripped(text.substr(begin, end - begin), true, true);
    // At the end that it does not reach, what is left keeps its white space.
    if (first == last) break;
    if (found.size() == cuts_max) {
      found.push_back(from_right ? Range{begin, begin + last} : Range{begin + first, end});
      break;
    }
    end = from_right ? begin + last : end;
    begin = from_right ? begin : begin + first;
    size_t cut = from_right ? end : begin;
    while (from_right ? cut > begin : cut < end) {
      size_t next = cut;
      if (from_right) {
        do next--;
        while ((text[next] & 0xc0) == 0x80);
      }
      const Utf8Character c = character_at(text, next);
      if (is_python_space(c.value)) break;
      cut = from_right ? next : cut + c.bytes;
    }
    found.push_back(from_right ? Range{cut, end} : Range{begin, cut});
    (from_right ? end : begin) = cut;
  }
  if (from_right) std::reverse(found.begin(), found.end());
  return found;
}

std::vector<Range> parts(std::string_view text, std::string_view mark, uint64_t cuts_max, bool from_right) {
  std::vector<Range> found;
  size_t begin = 0, end = text.size();
  while (found.size() < cuts_max) {
    const std::string_view rest = text.substr(begin, end - begin);
    const size_t at = from_right ? rest.rfind(mark) : rest.find(mark);
    if (at == rest.npos) break;
    found.push_back(from_right ? Range{begin + at + mark.size(), end} : Range{begin, begin + at});
    (from_right ? end : begin) = from_right ? begin + at : begin + at + mark.size();
  }
  found.push_back({begin, end});
  if (from_right) std::reverse(found.begin(), found.end());
  return found;
}

Value split_from(Call& call, bool from_right) {
  const int64_t cuts = call.integer(1, -1);
  const uint64_t cuts_max = cuts < 0 ? UINT64_MAX : static_cast<uint64_t>(cuts);
  const std::string_view text = call.text().view();
  call.meter.bytes(text.size() + text.size() / 2 * sizeof(Range));
  if (!call.has(0)) return made_list(call, words(text, cuts_max, from_right));
  if (call.text(0).empty()) call.fail("splits at an empty string");
  return made_list(call, parts(text, call.text(0).view(), cuts_max, from_right));
}
Value split(Call& call) { return split_from(call, false); }
Value rsplit(Call& call) { return split_from(call, true); }

Value splitlines(Call& call) { return made_list(call, lines_of(call.text().view())); }

Value partition_from(Call& call, bool from_right) {
  const std::string_view text = call.text().view(), mark = call.text(0).view();
  if (mark.empty()) call.fail("splits at an empty string");
  call.meter.bytes(call.text().cost());
  const size_t at = from_right ? text.rfind(mark) : text.find(mark);
  const bool found = at != text.npos;
  const size_t begin = found ? at : from_right ? 0 : text.size(), end = found ? at + mark.size() : begin;
  std::vector<Value> three;
  three.emplace_back(call.text().slice(0, begin));
  three.emplace_back(found ? call.text(0) : Text());
  three.emplace_back(call.text().slice(end, text.size()));
  return List::make(call.meter, std::move(three), List::Kind::tuple);
}
Value partition(Call& call) { return partition_from(call, false); }
Value rpartition(Call& call) { return partition_from(call, true); }

/// One string, or a tuple of which one has to fit.
template <class Fits>
Value fits_any(Call& call, Fits fits) {
  const Text& text = call.text();
  const List* several = call.at[0]->list();
  const bool tuple = several && several->kind == List::Kind::tuple;
  if (!tuple) return fits(text.view(), call.text(0).view());
  call.meter.steps(several->elements.size());
  for (const Value& one : several->elements)
    if (fits(text.view(), call.text(one).view())) return true;
  return false;
}
Value startswith(Call& call) {
  return fits_any(call, [](std::string_view text, std::string_view with) { return text.starts_with(with); });
}
Value endswith(Call& call) {
  return fits_any(call, [](std::string_view text, std::string_view with) { return text.ends_with(with); });
}

Value removeprefix(Call& call) {
  const bool has = call.text().view().starts_with(call.text(0).view());
  return call.made(call.text().slice(has ? call.text(0).size() : 0, call.text().size()));
}
Value removesuffix(Call& call) {
  const bool has = call.text().view().ends_with(call.text(0).view());
  return call.made(call.text().slice(0, call.text().size() - (has ? call.text(0).size() : 0)));
}

Value replace(Call& call) {
  return replaced(call, call.text(), call.text(0), call.text(1), call.integer(2, -1));
}
Value upper(Call& call) { return call.made(converted(call.text(), upper_case)); }
Value lower(Call& call) { return call.made(converted(call.text(), lower_case)); }
Value capitalize(Call& call) { return capitalized(call, call.text()); }

/// Python's: a word is a stretch of letters that have a case.
Value title(Call& call) {
  Text result;
  bool begins = true;
  for (size_t at = 0; at < call.text().size();) {
    const Utf8Character c = character_at(call.text().view(), at);
    result.append(converted(call.text().slice(at, at + c.bytes), begins ? upper_case : lower_case));
    begins = !is_cased(c.value);
    at += c.bytes;
  }
  return call.made(std::move(result));
}

/// As a character's place; -1 if it is not there.
Value place_in(Call& call, bool last) {
  const std::string_view text = call.text().view();
  call.meter.bytes(text.size());
  const size_t at = last ? text.rfind(call.text(0).view()) : text.find(call.text(0).view());
  return at == text.npos ? int64_t{-1} : static_cast<int64_t>(count_characters(text.substr(0, at)));
}
Value find(Call& call) { return place_in(call, false); }
Value rfind(Call& call) { return place_in(call, true); }
Value index(Call& call) {
  Value place = place_in(call, false);
  if (*place.get<int64_t>() < 0) call.fail("does not find what it looks for");
  return place;
}

Value count(Call& call) {
  const std::string_view text = call.text().view(), mark = call.text(0).view();
  call.meter.bytes(text.size());
  if (mark.empty()) return static_cast<int64_t>(count_characters(text) + 1);
  int64_t found = 0;
  for (size_t at = 0; (at = text.find(mark, at)) != text.npos; at += mark.size()) found++;
  return found;
}

Value join(Call& call) {
  Text joined;
  bool first = true;
  const ListPtr elements = iterated(call.meter, *call.at[0]);
  for (const Value& element : elements->elements) {
    call.meter.bytes(call.text().cost() + call.text(element).cost());
    if (!first) joined.append(call.text());
    first = false;
    joined.append(call.text(element));
  }
  return joined;
}

template <class Is>
bool all_characters(Call& call, Is is) {
  const std::string_view text = call.text().view();
  call.meter.bytes(text.size());
  for (size_t at = 0; at < text.size();) {
    const Utf8Character c = character_at(text, at);
    if (!is(c.value)) return false;
    at += c.bytes;
  }
  return !text.empty();
}
Value isspace(Call& call) { return all_characters(call, is_python_space); }
Value isdigit(Call& call) {
  return all_characters(call, [&](char32_t c) {
    if (c > 0x7f && is_word_character(c)) call.fail("knows the digits of ASCII only");
    return c >= '0' && c <= '9';
  });
}
bool has_case(Call& call, char32_t (*convert)(char32_t)) {
  bool cased = false;
  all_characters(call, [&](char32_t c) { return cased = cased || is_cased(c), true; });
  return cased && converted(call.text(), convert).view() == call.text().view();
}
Value isupper(Call& call) { return has_case(call, upper_case); }
Value islower(Call& call) { return has_case(call, lower_case); }

constexpr Builtin of_strings[] = {
    {"capitalize", capitalize},
    {"count", count, 1, {"sub"}},
    {"endswith", endswith, 1, {"suffix"}},
    {"find", find, 1, {"sub"}},
    {"format", formatted, 0, {}, true},
    {"index", index, 1, {"sub"}},
    {"isdigit", isdigit},
    {"islower", islower},
    {"isspace", isspace},
    {"isupper", isupper},
    {"join", join, 1, {"iterable"}},
    {"lower", lower},
    {"lstrip", lstrip, 0, {"chars"}},
    {"partition", partition, 1, {"sep"}},
    {"removeprefix", removeprefix, 1, {"prefix"}},
    {"removesuffix", removesuffix, 1, {"suffix"}},
    {"replace", replace, 2, {"old", "new", "count"}},
    {"rfind", rfind, 1, {"sub"}},
    {"rpartition", rpartition, 1, {"sep"}},
    {"rsplit", rsplit, 0, {"sep", "maxsplit"}},
    {"rstrip", rstrip, 0, {"chars"}},
    {"split", split, 0, {"sep", "maxsplit"}},
    {"splitlines", splitlines},
    {"startswith", startswith, 1, {"prefix"}},
    {"strip", strip, 0, {"chars"}},
    {"title", title},
    {"upper", upper},
};

// Dictionaries, lists, loops.

Value items(Call& call) {
  return List::make(call.meter, item_pairs(call.meter, *call.self.dictionary()), List::Kind::view);
}
Value keys(Call& call) {
  return List::make(call.meter, iterated(call.meter, call.self)->elements.all(), List::Kind::view);
}
Value values(Call& call) {
  std::vector<Value> all;
  call.meter.bytes(call.self.dictionary()->entries().size() * sizeof(Value));
  for (const auto& entry : call.self.dictionary()->entries()) all.push_back(entry.value);
  return List::make(call.meter, std::move(all), List::Kind::view);
}
Value get(Call& call) {
  const Value* found = call.self.dictionary()->find(call.meter, *call.at[0]);
  if (found) return *found;
  return call.at[1] ? *call.at[1] : Value(None{});
}
Value copy(Call& call) { return call.self; }

constexpr Builtin of_dictionaries[] = {
    {"copy", copy}, {"get", get, 1, {"key", "default"}}, {"items", items}, {"keys", keys}, {"values", values},
};

Value count_elements(Call& call) {
  const auto& elements = call.self.list()->elements;
  return static_cast<int64_t>(std::count_if(elements.begin(), elements.end(), [&](const Value& element) {
    return equal(call.meter, element, *call.at[0]);
  }));
}
Value index_of(Call& call) {
  const auto& elements = call.self.list()->elements;
  for (size_t i = 0; i < elements.size(); i++)
    if (equal(call.meter, elements[i], *call.at[0])) return static_cast<int64_t>(i);
  call.fail("does not find what it looks for");
}

constexpr Builtin of_lists[] = {
    {"copy", copy}, {"count", count_elements, 1, {"value"}}, {"index", index_of, 1, {"value"}}};

Value cycle(Call& call) {
  const auto& all = call.given.positional;
  if (all.empty()) call.fail("needs something to go through");
  return all[(*call.self.get<Loop*>())->index % all.size()];
}
Value changed(Call& call) {
  Loop& loop = **call.self.get<Loop*>();
  Value seen = List::make(call.meter, call.given.positional, List::Kind::tuple);
  const bool differs = !loop.last_changed || !equal(call.meter, *loop.last_changed, seen);
  if (differs) loop.last_changed = std::move(seen);
  return differs;
}

constexpr Builtin of_loops[] = {{"changed", changed, 0, {}, true}, {"cycle", cycle, 0, {}, true}};

}  // namespace

const Builtin* find_method(const Value& self, std::string_view name) {
  if (self.text()) return find_in(of_strings, name);
  if (self.dictionary()) return find_in(of_dictionaries, name);
  if (const List* list = self.list(); list && list->has_places()) return find_in(of_lists, name);
  if (self.is<Loop*>()) return find_in(of_loops, name);
  return nullptr;
}

std::vector<Value> item_pairs(Meter& meter, const Dictionary& dictionary) {
  std::vector<Value> pairs;
  for (const auto& entry : dictionary.entries())
    pairs.push_back(List::make(meter, {entry.key, entry.value}, List::Kind::tuple));
  return pairs;
}

}  // namespace convoy::model::jinja
