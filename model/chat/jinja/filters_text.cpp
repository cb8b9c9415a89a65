// Filters that make text, and what methods of strings share with them. Jinja's filters take any value and
// look at what it prints.

#include <algorithm>
#include <charconv>

#include "model/chat/jinja/filters.hpp"
#include "model/chat/jinja/given.hpp"
#include "model/chat/jinja/spelling.hpp"
#include "model/json.hpp"
#include "model/utf8.hpp"

namespace convoy::model::jinja {

Value capitalized(Call& call, const Text& text) {
  const size_t first = text.empty() ? 0 : character_at(text.view(), 0).bytes;
  Text result = converted(text.slice(0, first), upper_case);
  result.append(converted(text.slice(first, text.size()), lower_case));
  return call.made(std::move(result));
}

Value replaced(Call& call, const Text& text, const Text& from, const Text& to, int64_t count) {
  call.meter.bytes(text.cost());
  Text result;
  size_t at = 0;
  for (int64_t done = 0; count < 0 || done < count; done++) {
    size_t found = text.view().find(from.view(), at);
    if (found == std::string_view::npos) break;
    if (from.empty() && done > 0) {  // before each character and at the end
      if (at == text.size()) break;
      found = at + character_at(text.view(), at).bytes;
    }
    call.meter.bytes(to.cost());
    call.meter.steps(1);
    result.append(text, at, found);
    result.append(to);
    at = found + from.size();
  }
  result.append(text, at, text.size());
  return call.made(std::move(result));
}

/// "{}", "{0}" and "{name}", each with what str() makes of it; of what stands behind a ':' or '!' nothing is
/// known.
Value formatted(Call& call) {
  const Text& text = call.text();
  const std::string_view view = text.view();
  const auto& [positional, named] = call.given;
  Text result;
  size_t next = 0;
  for (size_t at = 0; at < view.size();) {
    const size_t mark = std::min(view.find_first_of("{}", at), view.size());
    result.append(text, at, mark);
    at = mark;
    if (at == view.size()) break;
    if (view.substr(at, 2) == "{{" || view.substr(at, 2) == "}}") {
      result.append(text, at, at + 1);
      at += 2;
      continue;
    }
    const size_t end = view.find('}', at);
    if (view[at] == '}' || end == view.npos) call.fail("has a single brace");
    const std::string_view name = view.substr(at + 1, end - at - 1);
    size_t index = next;
    const bool is_index =
        std::from_chars(name.data(), name.data() + name.size(), index).ptr == name.data() + name.size();
    const Value* value = is_index && index < positional.size() ? &positional[index] : nullptr;
    for (const auto& [known, given] : named)
      if (known == name) value = &given;
    if (!value) call.fail("finds nothing for " + in_quotes(name));
    next += name.empty();
    const TextPtr said = to_text(call.meter, *value);
    call.meter.bytes(said->cost());
    result.append(*said);
    at = end + 1;
  }
  return call.made(std::move(result));
}

namespace {

TextPtr self_text(Call& call) {
  TextPtr text = to_text(call.meter, call.self);
  call.meter.bytes(text->cost());
  return text;
}

Value string(Call& call) { return self_text(call); }

Value safe(Call& call) {
  Text text = *self_text(call);
  text.set_markup();
  return call.made(std::move(text));
}

Value upper(Call& call) { return call.made(converted(*self_text(call), upper_case)); }
Value lower(Call& call) { return call.made(converted(*self_text(call), lower_case)); }
Value capitalize(Call& call) { return capitalized(call, *self_text(call)); }

Value trim(Call& call) {
  const TextPtr text = self_text(call);
  const auto [begin, end] = call.has(0) ? stripped(text->view(), true, true, call.text(0).view())
                                        : stripped(text->view(), true, true);
  return call.made(text->slice(begin, end));
}

Value replace(Call& call) {
  const TextPtr from = to_text(call.meter, *call.at[0]), to = to_text(call.meter, *call.at[1]);
  return replaced(call, *self_text(call), *from, *to, call.integer(2, -1));
}

/// Jinja's own: words begin behind white space, '-' and opening brackets.
Value title(Call& call) {
  const TextPtr text = self_text(call);
  Text result;
  bool begins = true;
  for (size_t at = 0; at < text->size();) {
    const Utf8Character c = character_at(text->view(), at);
    const bool parts = is_python_space(c.value) ||
                       (c.value < 0x80 &&
                        std::string_view("-({[<").find(static_cast<char>(c.value)) != std::string_view::npos);
    result.append(converted(text->slice(at, at + c.bytes), begins ? upper_case : lower_case));
    begins = parts;
    at += c.bytes;
  }
  return call.made(std::move(result));
}

Value indent(Call& call) {
  constexpr int64_t width_max = 1000;
  const TextPtr text = self_text(call);
  Text by;
  if (call.has(0) && call.at[0]->text()) {
    by = *call.at[0]->text();
  } else {
    const int64_t width = call.integer(0, 4);
    if (width > width_max) call.fail("indents by more than " + std::to_string(width_max));
    by = Text(std::string(static_cast<size_t>(std::max<int64_t>(width, 0)), ' '), false);
  }
  const bool first = call.flag(1, false), blank = call.flag(2, false);
  Text result;
  bool is_first = true;
  Text lines = *text;
  lines.append("\n", false);  // Jinja's too: splitting forgets one
  for (const auto& [begin, end] : lines_of(lines.view())) {
    if (!is_first) result.append("\n", false);
    if (is_first ? first : blank || end > begin) {
      call.meter.bytes(by.cost());
      result.append(by);
    }
    is_first = false;
    result.append(lines, begin, end);
  }
  return call.made(std::move(result));
}

Value tojson(Call& call) {
  JsonStyle style;
  style.ascii = call.flag(0, false);
  if (call.has(1)) {
    constexpr int64_t indent_max = 64;
    const bool given = call.at[1]->text();
    const int64_t blanks = given ? 0 : integer_of(call.meter, *call.at[1], "indent");
    if (blanks > indent_max) call.fail("indents by more than " + std::to_string(indent_max));
    style.indent = given ? std::string(call.at[1]->text()->view())
                         : std::string(static_cast<size_t>(std::max<int64_t>(blanks, 0)), ' ');
    style.item_separator = ",";
  }
  if (call.has(2)) {
    const ListPtr separators = iterated(call.meter, *call.at[2]);
    if (separators->elements.size() != 2) call.fail("takes two separators");
    style.item_separator = call.text(separators->elements[0]).view();
    style.key_separator = call.text(separators->elements[1]).view();
  }
  style.sorted = call.flag(3, false);
  return to_json(call.meter, call.self, style);
}

/// Of texts that publishers write for arguments which come as JSON text.
Value from_json(Call& call) {
  const Text& text = call.text();
  call.meter.bytes(text.size() * sizeof(boost::json::value));
  const std::string place = call.meter.place();
  return given(call.meter, parse_json(text.view(), place), place);
}

constexpr Builtin text_filters[] = {
    {"capitalize", capitalize},
    {"from_json", from_json},
    {"indent", indent, 0, {"width", "first", "blank"}},
    {"lower", lower},
    {"replace", replace, 2, {"old", "new", "count"}},
    {"safe", safe},
    {"string", string},
    {"title", title},
    {"tojson", tojson, 0, {"ensure_ascii", "indent", "separators", "sort_keys"}},
    {"trim", trim, 0, {"chars"}},
    {"upper", upper},
};

}  // namespace

const Builtin* find_text_filter(std::string_view name) { return find_in(text_filters, name); }

}  // namespace convoy::model::jinja
