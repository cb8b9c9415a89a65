#pragma once
// Jinja's grammar, as far as published chat templates use it. Pure; any thread.

#include <string_view>

#include "model/chat/jinja/syntax.hpp"

namespace convoy::model::jinja {

/// Throws InputError at the template's line for what is wrong, not supported, or nested too deep.
Body parse_template(std::string_view text);

}  // namespace convoy::model::jinja
