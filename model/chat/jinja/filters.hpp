#pragma once
// What the tables of builtins share. Internal to model/chat/jinja/.

#include <string_view>
#include <vector>

#include "model/chat/jinja/builtin.hpp"

namespace convoy::model::jinja {

/// nullptr if there is none of that name.
const Builtin* find_text_filter(std::string_view name);
const Builtin* find_number_filter(std::string_view name);

/// A dictionary's entries as tuples.
std::vector<Value> item_pairs(Meter& meter, const Dictionary& dictionary);

/// `a + b`: numbers, strings, lists.
Value add(Meter& meter, const Value& a, const Value& b);

// Of strings, for filters and methods both.
Value formatted(Call& call);
Value capitalized(Call& call, const Text& text);
Value replaced(Call& call, const Text& text, const Text& from, const Text& to, int64_t count);

}  // namespace convoy::model::jinja
