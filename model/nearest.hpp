#pragma once
// What a misspelt name was meant to be: for keys, commands, options and the names of models. Pure; any
// thread.

#include <span>
#include <string>
#include <string_view>

namespace convoy::model {

/// The known name that is meant, if one is near enough; empty if none is.
std::string_view nearest(std::string_view name, std::span<const std::string_view> known);

/// "; did you mean `port`?", or all names if none is near.
std::string suggestion(std::string_view name, std::span<const std::string_view> known);

}  // namespace convoy::model
